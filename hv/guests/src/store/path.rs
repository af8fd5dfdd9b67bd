//! Paths: which are well formed, their parents, and where relative ones begin.
#![forbid(unsafe_code)]

use alloc::string::String;

use super::wire::{ABS_PATH_MAX, Error, REL_PATH_MAX};

/// Where a domain's relative paths begin.
#[must_use]
pub fn home(domid: u16) -> String {
    alloc::format!("/local/domain/{domid}")
}

/// Whether it is an absolute path of permitted characters without empty parts.
#[must_use]
pub fn is_valid(path: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'/' | b'_' | b'@');
    path.len() <= ABS_PATH_MAX
        && path.starts_with('/')
        && path.bytes().all(good)
        && !path.contains("//")
        && (path == "/" || !path.ends_with('/'))
}

/// Whether it names one of the two special watch paths.
#[must_use]
pub fn is_special(path: &str) -> bool {
    matches!(path, "@introduceDomain" | "@releaseDomain")
}

/// A client's path made absolute.
///
/// # Errors
/// `EINVAL`: not well formed.
pub fn absolute(path: &str, domid: u16) -> Result<String, Error> {
    let whole = if path.starts_with('/') {
        String::from(path)
    } else if path.is_empty() || path.starts_with('@') || path.len() > REL_PATH_MAX {
        return Err(Error::Inval);
    } else {
        alloc::format!("{}/{path}", home(domid))
    };
    if is_valid(&whole) { Ok(whole) } else { Err(Error::Inval) }
}

/// The parent of a path; `None` for the root and for special paths.
#[must_use]
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        Some(0) if path.len() > 1 => Some("/"),
        Some(at) if at > 0 => Some(&path[..at]),
        _ => None,
    }
}

/// The last part of a path.
#[must_use]
pub fn leaf(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The path of a child.
#[must_use]
pub fn child(path: &str, leaf: &str) -> String {
    if path == "/" { alloc::format!("/{leaf}") } else { alloc::format!("{path}/{leaf}") }
}

/// The path itself and everything above it, from the bottom up.
pub fn upwards(path: &str) -> impl Iterator<Item = &str> {
    core::iter::successors(Some(path), |&path| parent(path))
}
