//! The targets for libFuzzer: which one, the environment says.
#![no_main]

use std::sync::OnceLock;

use gnttab_fuzz::{TARGETS, Target};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    let target = CHOSEN.get_or_init(|| {
        let wanted = std::env::var("TOLLGATE_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = TARGETS.iter().find(|target| target.name == wanted) else {
            panic!("TOLLGATE_FUZZ_TARGET names no target: '{wanted}'")
        };
        target
    });
    (target.run)(data);
});
