#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cache_layer::fuzz::hot_lists(data));
