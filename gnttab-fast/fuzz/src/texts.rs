//! What comes from the boot loader: texts, and the files of kernels. It may be damaged, never a reason to panic.

use gnttab_fast::Policy;
use hv::cmdline::{self, Options};
use hv::domain::config;
use hv::domain::image::Image;

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// `gnttab=` of the host, and of a domain under each host policy: it never allows more.
pub(crate) fn policy(data: &[u8]) {
    let Some(list) = text(data) else { return };
    let items = list.split(',').count();
    let mut refused = 0;
    let host = Policy::HOST_DEFAULT.parse(list, &mut |_, _| refused += 1);
    assert!(refused <= items, "an item refused twice");
    // What a policy prints is the same policy.
    let again = Policy::HOST_DEFAULT.parse(&host.to_string(), &mut |item, why| panic!("{item}: {why}"));
    assert_eq!(again, host);
    let tight = host.tighten(list, &mut |_, _| ());
    assert!(tight.max_version() <= host.max_version() && (host.transitive() || !tight.transitive()));
}

/// The hypervisor's command line: at most one line of report for each word, but for the items of `gnttab=`.
pub(crate) fn cmdline(data: &[u8]) {
    let Some(line) = text(data) else { return };
    let mut lines = 0;
    let options = cmdline::parse(line, &mut |report| {
        let report = report.to_string();
        assert!(report.starts_with(cmdline::BAD_OPTION) && !report.contains('\n'), "{report}");
        lines += 1;
    });
    assert!(lines <= line.split_ascii_whitespace().count() + line.matches(',').count(), "{lines}");
    assert!((1..=cmdline::MAX_CPUS).contains(&options.maxcpus));
    assert_eq!(options, cmdline::parse(line, &mut |_| ()), "read twice, two meanings");
}

/// The string of a boot module.
pub(crate) fn module(data: &[u8]) {
    let Some(line) = text(data) else { return };
    let options = Options::default();
    match config::parse(line, &options) {
        Ok(config::Role::Data) => {}
        Ok(config::Role::Domain(config)) => {
            assert!(!config.name.is_empty() && line.contains(config.cmdline));
            assert!((config::MIN_MEMORY..=config::MAX_MEMORY).contains(&config.memory));
            assert_eq!(config.memory % 4096, 0);
            let host = options.gnttab;
            let policy = config.grants.policy;
            assert!(
                policy.max_version() <= host.max_version() && (host.transitive() || !policy.transitive())
            );
        }
        Err(bad) => {
            let said = bad.to_string();
            assert!(!said.is_empty() && !said.contains('\n'), "{said:?}");
        }
    }
}

/// A kernel's file: what is accepted lies in the file, below 4 GiB, apart from each other, with the entry in it.
pub(crate) fn image(data: &[u8]) {
    let Ok(image) = Image::parse(data) else { return };
    let file = data.as_ptr_range();
    let mut last = 0;
    for segment in &image.segments {
        let bytes = segment.bytes.as_ptr_range();
        assert!(segment.bytes.is_empty() || (file.start <= bytes.start && bytes.end <= file.end));
        assert!(last <= segment.start && segment.start < segment.end && segment.end <= 1 << 32);
        assert!(segment.bytes.len() as u64 <= segment.end - segment.start);
        last = segment.end;
    }
    let entry = u64::from(image.entry);
    assert!(image.segments.iter().any(|segment| (segment.start..segment.end).contains(&entry)));
}
