//! libFuzzer around one promise of `interdict::fuzz`, named by `INTERDICT_PROMISE`.
#![no_main]

use std::sync::LazyLock;

use interdict::fuzz::{PROMISES, Promise};
use libfuzzer_sys::fuzz_target;

static PROMISE: LazyLock<Promise> = LazyLock::new(|| {
    let name = std::env::var("INTERDICT_PROMISE").unwrap_or_default();
    let found = PROMISES.iter().find(|(promise, _)| *promise == name);
    found.map_or_else(|| panic!("no promise {name:?}"), |(_, promise)| *promise)
});

fuzz_target!(|data: &[u8]| PROMISE(data));
