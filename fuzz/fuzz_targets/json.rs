//! The inspector takes what `serde_json` takes, and an edit changes what it should and nothing else.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use weir::openai::json::{self, JsonError};

fuzz_target!(|data: &[u8]| {
    let _ = json::inspect(data, 4);
    let _ = json::top_level_member(data, "usage");
    let is_json = serde_json::from_slice::<&RawValue>(data).is_ok();
    let is_object = is_json && data.trim_ascii_start().starts_with(b"{");
    assert_eq!(json::validate_object(data).is_ok(), is_object);

    let members = match json::inspect(data, usize::MAX) {
        Ok(members) => members,
        Err(JsonError::Duplicate(_)) => return,
        Err(JsonError::NotAnObject) => return assert!(is_json && !is_object),
        Err(_) => return assert!(!is_json),
    };
    assert!(is_object);

    let body = Bytes::copy_from_slice(data);
    let edited = members.rewrite(&body, Some("new \"name\""), true);
    let found = json::inspect(&edited, usize::MAX).unwrap();
    assert_eq!(found.model(&edited).unwrap().unwrap(), "new \"name\"");
    assert_eq!(found.rewrite(&edited, Some("new \"name\""), true), edited);

    // A document says the same, where one can be built: not of lone surrogates, huge numbers or great depth.
    if let Ok(mut value) = serde_json::from_slice::<Value>(data) {
        value["model"] = "new \"name\"".into();
        if value["stream_options"].is_object() || value["stream_options"].is_null() {
            value["stream_options"]["include_usage"] = true.into();
        }
        assert_eq!(serde_json::from_slice::<Value>(&edited).unwrap(), value);
    }
});
