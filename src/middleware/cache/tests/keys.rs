//! Which calls have one key: those whose answers cannot differ, and no others. Real bodies are changed in one place, and what
//! that ought to do is told by another way than the key's own.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value};

use super::super::judge::Scope;
use super::super::key::key;
use super::*;
use crate::store::cache::Key;

/// Bodies as clients send them, each with its endpoint.
const BODIES: [(Endpoint, &str); 6] = [
    (
        Endpoint::ChatCompletions,
        r#"{"model":"gpt-4o","messages":[{"role":"system","content":"You are terse."},{"role":"user","content":[{"type":"text","text":"What is in this image? \"é\" \u2028"},{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo=","detail":"high"}}]}],"temperature":0,"top_p":0.9,"n":1,"max_completion_tokens":300,"stop":["\n\n","END"],"logit_bias":{"50256":-100},"user":"u-1","metadata":{"run":"7"},"stream":false}"#,
    ),
    (
        Endpoint::ChatCompletions,
        r#"{"model":"gpt-4o-mini","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},"seed":42,"messages":[{"role":"user","content":"Weather in Paris?"},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"weather","arguments":"{\"city\":\"Paris\"}"}}]},{"role":"tool","tool_call_id":"call_1","content":"{\"c\":21}"}],"tools":[{"type":"function","function":{"name":"weather","description":"Looks it up","strict":true,"parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"],"additionalProperties":false}}}],"tool_choice":"auto","parallel_tool_calls":false,"prompt_cache_key":"w","safety_identifier":"s"}"#,
    ),
    (
        Endpoint::ChatCompletions,
        r#"{"model":"o3","reasoning_effort":"low","service_tier":"flex","response_format":{"type":"json_schema","json_schema":{"name":"answer","strict":true,"schema":{"type":"object","properties":{"n":{"type":"number","minimum":0.5}}}}},"messages":[{"role":"developer","content":"JSON"},{"role":"user","content":"1 + 1"}],"logprobs":true,"top_logprobs":2,"seed":9007199254740993,"store":null}"#,
    ),
    (
        Endpoint::Completions,
        r#"{"model":"davinci-002","prompt":["Once upon",[1212,318,257]],"max_tokens":16,"temperature":0.0,"echo":true,"best_of":1,"suffix":null,"presence_penalty":-1.5}"#,
    ),
    (
        Endpoint::Embeddings,
        r#"{"model":"text-embedding-3-small","input":["one","two",""],"encoding_format":"base64","dimensions":256,"user":"u"}"#,
    ),
    (
        Endpoint::Responses,
        r#"{"model":"gpt-4.1","store":false,"temperature":0,"instructions":"Be kind.","input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]},{"type":"function_call_output","call_id":"c","output":"4"}],"text":{"format":{"type":"text"}},"tools":[{"type":"web_search"}],"metadata":{"a":"b"},"user":"u","truncation":"auto","stream":true}"#,
    ),
];

/// What cannot change an answer of these, as the documentation says.
const CANNOT_MATTER: [&str; 6] = [
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "stream_options",
];

/// One way to change a value.
#[derive(Clone, Copy, Debug)]
enum Change {
    Other,
    Gone,
    Twice,
    Retyped,
    Renamed,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Other),
        Just(Change::Gone),
        Just(Change::Twice),
        Just(Change::Retyped),
        Just(Change::Renamed),
    ]
}

fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut inner = |name: String, value: &Value| {
        let name = name.replace('~', "~0").replace('/', "~1");
        let at = format!("{at}/{name}");
        pointers(value, &at, all);
        all.push(at);
    };
    match value {
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                inner(index.to_string(), element);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                inner(name.clone(), member);
            }
        }
        _ => {}
    }
}

fn other(value: &mut Value) {
    *value = match std::mem::take(value) {
        Value::Null => false.into(),
        Value::Bool(is) => (!is).into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => (integer + 1).into(),
            (None, Some(integer)) => (integer - 1).into(),
            (None, None) => (number.as_f64().unwrap() + 0.25).into(),
        },
        Value::String(text) => format!("{text} ").into(),
        Value::Array(mut elements) => {
            elements.reverse();
            elements.push(Value::Null);
            elements.into()
        }
        Value::Object(mut members) => {
            members.insert("new".into(), 1.into());
            members.into()
        }
    };
}

fn changed(body: &Value, index: Index, change: Change) -> Value {
    let mut body = body.clone();
    let mut all = Vec::new();
    pointers(&body, "", &mut all);
    let at = index.get(&all).clone();
    let (parent, name) = at.rsplit_once('/').unwrap();
    match change {
        Change::Other => other(body.pointer_mut(&at).unwrap()),
        Change::Retyped => {
            let value = body.pointer_mut(&at).unwrap();
            *value = match value.take() {
                Value::String(text) => Value::Array(vec![text.into()]),
                value => value.to_string().into(),
            };
        }
        Change::Gone | Change::Twice | Change::Renamed => match body.pointer_mut(parent).unwrap() {
            Value::Array(elements) => {
                let place = name.parse::<usize>().unwrap();
                match change {
                    Change::Twice => elements.insert(place, elements[place].clone()),
                    _ => drop(elements.remove(place)),
                }
            }
            Value::Object(members) => {
                let name = name.replace("~1", "/").replace("~0", "~");
                let value = members[&name].clone();
                if !matches!(change, Change::Twice) {
                    members.remove(&name);
                }
                if !matches!(change, Change::Gone) {
                    members.insert(format!("{name}_"), value);
                }
            }
            _ => unreachable!("it has members"),
        },
    }
    body
}

/// Returns all of a body that can change its answer.
fn essence(endpoint: &Endpoint, body: &Value) -> (Value, Value) {
    let mut members = body.as_object().unwrap().clone();
    let is_stream = members.get("stream") == Some(&true.into());
    members.insert("stream".into(), is_stream.into());
    let mut options = Value::Object(Map::new());
    if is_stream && let Some(given) = members.get("stream_options").filter(|o| !o.is_null()) {
        options = given.clone();
        if let Some(options) = options.as_object_mut() {
            options.remove("include_usage");
        }
    }
    if *endpoint != Endpoint::Responses {
        for name in CANNOT_MATTER {
            members.remove(name);
        }
    }
    (members.into(), options)
}

/// `None`: the gateway takes no such body.
fn call_with(endpoint: &Endpoint, text: &str) -> Option<Call> {
    let body: Value = serde_json::from_str(text).unwrap();
    let model = body["model"].as_str()?;
    let is_stream = body.get("stream").is_none_or(Value::is_boolean);
    let mut call = is_stream.then(|| call_of("a", text, None))?;
    call.endpoint = endpoint.clone();
    call.model = Some(model.into());
    Some(call)
}

fn key_of(call: &Call) -> Key {
    key(call, Scope::Team, &One).unwrap()
}

/// The same with its members in the reverse order, space wherever that may be, and needless escapes.
fn otherwise(value: &Value, out: &mut String) {
    let escaped = |text: &str| {
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", units.collect::<String>())
    };
    match value {
        Value::String(text) => out.push_str(&escaped(text)),
        Value::Array(elements) => {
            out.push_str("[\n");
            for (index, element) in elements.iter().enumerate() {
                out.push_str(if index > 0 { "\t,\r\n" } else { " " });
                otherwise(element, out);
            }
            out.push_str(" ]");
        }
        Value::Object(members) => {
            out.push_str("{ ");
            for (index, (name, member)) in members.iter().rev().enumerate() {
                out.push_str(if index > 0 { " , " } else { "" });
                out.push_str(&escaped(name));
                out.push_str("\t: ");
                otherwise(member, out);
            }
            out.push_str("\n}");
        }
        other => out.push_str(&other.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn calls_share_a_key_if_and_only_if_nothing_differs_that_matters(
        which in 0..BODIES.len(),
        changes in prop::collection::vec((any::<Index>(), change()), 1..3),
    ) {
        let (endpoint, text) = &BODIES[which];
        let body: Value = serde_json::from_str(text).unwrap();
        let mut other = body.clone();
        for (index, change) in changes {
            other = changed(&other, index, change);
        }
        let one = call_with(endpoint, text).unwrap();
        let Some(two) = call_with(endpoint, &other.to_string()) else {
            return Ok(());
        };
        let is_one = essence(endpoint, &body) == essence(endpoint, &other);
        prop_assert_eq!(key_of(&one) == key_of(&two), is_one, "{} {}", body, other);
    }

    #[test]
    fn form_and_order_do_not_matter(
        which in 0..BODIES.len(),
        index in any::<Index>(),
        change in change(),
    ) {
        let (endpoint, text) = &BODIES[which];
        let body = changed(&serde_json::from_str(text).unwrap(), index, change);
        let Some(one) = call_with(endpoint, &body.to_string()) else {
            return Ok(());
        };
        let mut text = String::new();
        otherwise(&body, &mut text);
        let two = call_with(endpoint, &text).unwrap();
        prop_assert_eq!(key_of(&one), key_of(&two), "{}", text);
    }

    #[test]
    fn who_asks_and_where_matter(which in 0..BODIES.len(), how in 0..5_usize) {
        let (endpoint, text) = &BODIES[which];
        let one = call_with(endpoint, text).unwrap();
        let mut two = call_with(endpoint, text).unwrap();
        match how {
            0 => two.caller = call_of("b", text, None).caller,
            1 => two.head.target = "/v1/chat/completions?api-version=2".parse().unwrap(),
            2 => two.endpoint = match endpoint {
                Endpoint::Completions => Endpoint::ChatCompletions,
                _ => Endpoint::Completions,
            },
            3 => two.model = Some("another".into()),
            _ => {
                let value = HeaderValue::from_static("assistants=v2");
                two.head.headers.insert("openai-beta", value);
            }
        }
        prop_assert_ne!(key_of(&one), key_of(&two));
    }
}

#[test]
fn numbers_that_are_alike_are_two_where_they_are_spelled_differently() {
    let spelled = |seed: &str| {
        let text = format!(r#"{{"model":"m","seed":{seed},"messages":[]}}"#);
        key_of(&call_with(&Endpoint::ChatCompletions, &text).unwrap())
    };
    let keys = ["1", "1.0", "1e0", "10e-1"].map(spelled);
    for (index, one) in keys.iter().enumerate() {
        assert!(!keys[index + 1..].contains(one), "{index}");
    }
    assert_ne!(spelled("9007199254740993"), spelled("9007199254740992"));
}
