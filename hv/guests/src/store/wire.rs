//! What goes over the ring: message types, headers, errors and the pieces of payloads
//! (`public/io/xs_wire.h`, `docs/misc/xenstore.txt`).
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// `XENSTORE_PAYLOAD_MAX`: bytes behind a header.
pub const PAYLOAD_MAX: usize = 4096;
/// `XENSTORE_ABS_PATH_MAX`
pub const ABS_PATH_MAX: usize = 3072;
/// `XENSTORE_REL_PATH_MAX`
pub const REL_PATH_MAX: usize = 2048;
/// Bytes of `struct xsd_sockmsg`.
pub const HEADER: usize = 16;

/// `XS_*`: types of messages.
pub mod kind {
    #![expect(missing_docs, reason = "the names are the header's")]
    pub const CONTROL: u32 = 0;
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const GET_PERMS: u32 = 3;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const INTRODUCE: u32 = 8;
    pub const RELEASE: u32 = 9;
    pub const GET_DOMAIN_PATH: u32 = 10;
    pub const WRITE: u32 = 11;
    pub const MKDIR: u32 = 12;
    pub const RM: u32 = 13;
    pub const SET_PERMS: u32 = 14;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const IS_DOMAIN_INTRODUCED: u32 = 17;
    pub const RESUME: u32 = 18;
    pub const SET_TARGET: u32 = 19;
    pub const RESET_WATCHES: u32 = 21;
    pub const DIRECTORY_PART: u32 = 22;
}

/// What a request may fail with: the errors of `xsd_errors` that this store gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the header's")]
pub enum Error {
    Inval,
    Acces,
    Exist,
    NoEnt,
    NoSpc,
    NoSys,
    Busy,
    Again,
    TooBig,
    Perm,
    Io,
}

impl Error {
    /// As it is spelt on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inval => "EINVAL",
            Self::Acces => "EACCES",
            Self::Exist => "EEXIST",
            Self::NoEnt => "ENOENT",
            Self::NoSpc => "ENOSPC",
            Self::NoSys => "ENOSYS",
            Self::Busy => "EBUSY",
            Self::Again => "EAGAIN",
            Self::TooBig => "E2BIG",
            Self::Perm => "EPERM",
            Self::Io => "EIO",
        }
    }
}

/// `struct xsd_sockmsg`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Header {
    /// One of [`kind`].
    pub kind: u32,
    /// The caller's; echoed.
    pub req_id: u32,
    /// Transaction, or 0.
    pub tx_id: u32,
    /// Bytes that follow.
    pub len: u32,
}

impl Header {
    /// From the wire.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let word = |index: usize| u32::from_le_bytes(words[index]);
        Self { kind: word(0), req_id: word(1), tx_id: word(2), len: word(3) }
    }

    /// For the wire.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [self.kind, self.req_id, self.tx_id, self.len];
        for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        bytes
    }
}

/// A whole message. Payloads longer than [`PAYLOAD_MAX`] are the caller's mistake, and nobody makes one.
#[must_use]
pub fn message(header: Header, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= PAYLOAD_MAX);
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&Header { len, ..header }.encode());
    bytes.extend_from_slice(payload);
    bytes
}

/// The strings of a payload, each of which must end with a NUL.
///
/// # Errors
/// `EINVAL`: the last one does not, or one is no UTF-8 (paths and numbers are ASCII anyway).
pub fn strings(payload: &[u8]) -> Result<Vec<&str>, Error> {
    let Some((0, all)) = payload.split_last().map(|(last, all)| (*last, all)) else {
        return Err(Error::Inval);
    };
    all.split(|&byte| byte == 0).map(|part| core::str::from_utf8(part).map_err(|_| Error::Inval)).collect()
}

/// The one string of a payload.
///
/// # Errors
/// `EINVAL`
pub fn one(payload: &[u8]) -> Result<&str, Error> {
    match strings(payload)?.as_slice() {
        [only] => Ok(only),
        _ => Err(Error::Inval),
    }
}

/// A string and the bytes behind its NUL.
///
/// # Errors
/// `EINVAL`
pub fn first(payload: &[u8]) -> Result<(&str, &[u8]), Error> {
    let end = payload.iter().position(|&byte| byte == 0).ok_or(Error::Inval)?;
    let text = core::str::from_utf8(&payload[..end]).map_err(|_| Error::Inval)?;
    Ok((text, &payload[end + 1..]))
}

/// A decimal number, digits only.
///
/// # Errors
/// `EINVAL`
pub fn number<T: core::str::FromStr>(text: &str) -> Result<T, Error> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Error::Inval);
    }
    text.parse().map_err(|_| Error::Inval)
}

/// Takes a client's bytes and cuts them into requests.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Parser {
    bytes: Vec<u8>,
}

/// A client announced a payload over the limit: what follows cannot be told apart any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLong;

impl Parser {
    /// How many more bytes belong to the present request; 0: it is complete.
    #[must_use]
    pub fn wants(&self) -> usize {
        let have = self.bytes.len();
        match self.header() {
            None => HEADER - have,
            // At most `HEADER + PAYLOAD_MAX`, else `take` had refused.
            Some(header) => (HEADER + usize::try_from(header.len).unwrap_or(0)).saturating_sub(have),
        }
    }

    fn header(&self) -> Option<Header> {
        self.bytes.first_chunk::<HEADER>().map(|bytes| Header::decode(*bytes))
    }

    /// Takes at most what the present request wants; how many bytes it took.
    ///
    /// # Errors
    /// A header with a length that is not allowed; nothing can be understood after it.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, TooLong> {
        let mut taken = 0;
        // Twice at most: the rest of the header, then of the payload.
        for _ in 0..2 {
            let part = self.wants().min(bytes.len() - taken);
            self.bytes.extend_from_slice(&bytes[taken..taken + part]);
            taken += part;
            let long = |header: Header| header.len > u32::try_from(PAYLOAD_MAX).unwrap_or(u32::MAX);
            if self.header().is_some_and(long) {
                return Err(TooLong);
            }
        }
        Ok(taken)
    }

    /// The request, when it is complete.
    pub fn request(&mut self) -> Option<(Header, Vec<u8>)> {
        let header = self.header()?;
        if self.wants() != 0 {
            return None;
        }
        let payload = self.bytes.split_off(HEADER);
        self.bytes.clear();
        Some((header, payload))
    }
}
