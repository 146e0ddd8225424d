#![no_main]

use diskimg_fuzz_targets::Target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| Target::named("openstack_replies").run(input));
