//! One target under libFuzzer, which brings `main`. `KEEPMQ_FUZZ_TARGET` names it: one build serves all of them.
#![no_main]
#![forbid(unsafe_code)]

use keepmq_fuzz::{Target, target};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static CHOSEN: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("KEEPMQ_FUZZ_TARGET").expect("KEEPMQ_FUZZ_TARGET names the target");
        let target = target(&name).expect("KEEPMQ_FUZZ_TARGET names a target that there is");
        CHOSEN.get_or_init(|| target);
    },
    |bytes: &[u8]| {
        CHOSEN.get().expect("`init` comes first")(bytes);
    }
);
