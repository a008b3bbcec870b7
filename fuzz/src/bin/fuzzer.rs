//! libFuzzer over the target that the variable `EASYEDIT_FUZZ_TARGET` names; `cargo xtask fuzz` starts it.
#![cfg_attr(target_os = "linux", no_main)]

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::OnceLock;

    use easyedit_fuzz::{LimitedAllocator, Target, caught, keep_panics_quiet, target};

    #[global_allocator]
    static ALLOCATOR: LimitedAllocator = LimitedAllocator::new();

    static TARGET: OnceLock<&'static Target> = OnceLock::new();

    fn prepare() {
        let name = std::env::var("EASYEDIT_FUZZ_TARGET").unwrap_or_default();
        let Some(target) = target(&name) else {
            eprintln!("EASYEDIT_FUZZ_TARGET is {name:?}, which is no target");
            std::process::exit(2);
        };
        let _ = TARGET.set(target);
        // libfuzzer-sys ends the process at any panic; those that a reader catches are none of ours.
        keep_panics_quiet();
        // What an input is applied to is made before the clock runs.
        if let Some((_, bytes)) = (target.seeds)().first() {
            let _ = (target.run)(bytes);
        }
    }

    libfuzzer_sys::fuzz_target!(init: prepare(), |data: &[u8]| {
        let Some(target) = TARGET.get() else { return };
        if let Some(panic) = caught(|| {
            (target.run)(data);
        }) {
            eprintln!("{panic}");
            std::process::abort();
        }
    });
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the fuzzer runs on Linux; `cargo xtask fuzz --mutations N` runs everywhere");
    std::process::exit(2);
}
