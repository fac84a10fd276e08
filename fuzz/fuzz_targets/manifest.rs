#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| opsctl_fuzz::manifest::run(data));
