use proptest::prelude::*;

use super::said::{Heard, answered, asked};
use crate::call::Message;
use crate::openai::endpoint::Endpoint;

fn told(messages: &[Message]) -> Vec<(&str, &str)> {
    let told = messages.iter().map(|m| (m.role.as_str(), m.text.as_str()));
    told.collect()
}

#[test]
fn what_is_asked() {
    let chat = br#"{"model":"m","messages":[{"role":"system","content":"Be\nbrief"},
        {"content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"data:x"}},{"type":"text","text":"b"}],"role":"user"},
        {"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{\"x\":1}"}}]},
        {"role":"tool","content":"7"}]}"#;
    assert_eq!(
        told(&asked(chat, &Endpoint::ChatCompletions, 1000)),
        [
            ("system", "Be\nbrief"),
            ("user", "a\nb"),
            ("assistant", "f\n{\"x\":1}"),
            ("tool", "7")
        ]
    );
    let responses =
        br#"{"input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}],"instructions":"i"}"#;
    assert_eq!(
        told(&asked(responses, &Endpoint::Responses, 1000)),
        [("system", "i"), ("user", "a")]
    );
    for (body, endpoint) in [
        (&br#"{"prompt":"a"}"#[..], Endpoint::Completions),
        (br#"{"input":["a"]}"#, Endpoint::Embeddings),
        (br#"{"input":"a"}"#, Endpoint::Responses),
    ] {
        assert_eq!(told(&asked(body, &endpoint, 1000)), [("user", "a")]);
    }
    let tokens = br#"{"prompt":[[1,2],[3]]}"#;
    assert_eq!(told(&asked(tokens, &Endpoint::Completions, 1000)), []);
}

#[test]
fn what_is_answered() {
    let chat = br#"{"choices":[{"message":{"role":"assistant","content":"yes"}},{"message":{"refusal":"no"}}]}"#;
    assert_eq!(
        told(&answered(chat, &Endpoint::ChatCompletions, 1000)),
        [("assistant", "yes"), ("assistant", "no")]
    );
    let responses =
        br#"{"output":[{"type":"message","content":[{"type":"output_text","text":"yes"}]},
        {"type":"function_call","name":"f","arguments":"{}"}]}"#;
    assert_eq!(
        told(&answered(responses, &Endpoint::Responses, 1000)),
        [("assistant", "yes"), ("assistant", "f\n{}")]
    );
    let completion = br#"{"choices":[{"text":"yes"}]}"#;
    assert_eq!(
        told(&answered(completion, &Endpoint::Completions, 1000)),
        [("assistant", "yes")]
    );
}

#[test]
fn what_is_streamed() {
    let mut heard = Heard::new(Endpoint::ChatCompletions, 6);
    for (index, piece) in [(0, "he"), (1, "x"), (0, "llo")] {
        let data = serde_json::json!({"choices": [{"index": index, "delta": {"content": piece}}]});
        heard.hear(data.to_string().as_bytes());
    }
    assert!(heard.is_full());
    heard.hear(br#"{"choices":[{"delta":{"content":"more"}}]}"#);
    assert_eq!(
        told(&heard.take()),
        [("assistant", "hello"), ("assistant", "x")]
    );
}

#[test]
fn room_is_bounded() {
    let message = r#"{"role":"user","content":"0123456789"}"#;
    let body = format!("{{\"messages\":[{}]}}", vec![message; 1000].join(","));
    let messages = asked(body.as_bytes(), &Endpoint::ChatCompletions, 100);
    assert!(messages.len() <= 4, "{}", messages.len());
    assert_eq!(messages[0].text, "0123456789");
    assert_eq!(format!("{:?}", messages[0]), "Message { .. }");
}

proptest! {
    #[test]
    fn garbage_never_panics(data in prop::collection::vec(any::<u8>(), 0..60), max in 0..80_usize, inside in r#"[\\u"a-f0-9\[\]{}: ,]{0,40}"#) {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions, Endpoint::Responses, Endpoint::Embeddings] {
            let nested = format!(r#"{{"messages":[{{"content":{inside}}}],"input":"{inside}","output":[{inside}],"choices":[{{"message":{{"content":"{inside}"}},"delta":{{"content":"{inside}"}}}}]}}"#);
            let mut heard = Heard::new(endpoint.clone(), max);
            for body in [&data[..], nested.as_bytes()] {
                asked(body, &endpoint, max);
                answered(body, &endpoint, max);
                heard.hear(body);
            }
            let said: usize = heard.take().iter().map(|message| message.text.len()).sum();
            // A broken byte may become a replacement character of three.
            prop_assert!(said <= 3 * max);
        }
    }
}
