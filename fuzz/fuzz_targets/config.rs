//! Whatever stands in a configuration file, it is read or refused with a report.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use weir::config::{self, Context};

fuzz_target!(|text: &str| {
    let context = Context {
        env: &|_| None,
        check_model: &|_| Ok(()),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    match config::parse(text, Path::new("weir.toml"), &context) {
        Ok(loaded) => assert_eq!(loaded.warnings.errors(), 0),
        Err(report) => assert!(report.errors() > 0 && !report.to_string().is_empty()),
    }
});
