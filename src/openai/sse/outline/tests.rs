use super::*;

fn outline(stream: &str) -> Outline {
    let mut outline = Outline::default();
    for event in Events::new(stream.as_bytes()) {
        if let Some(data) = event.data() {
            outline.read(&event, &data);
        }
    }
    outline
}

fn event(kind: &str, more: Value) -> String {
    let mut event = more;
    event["type"] = kind.into();
    format!("event: {kind}\ndata: {event}\n\n")
}

fn created() -> String {
    let response = json!({ "id": "resp_1", "model": "m", "status": "in_progress", "output": [], "usage": null });
    event("response.created", json!({ "response": response }))
}

/// The kinds and the data of what an ending writes.
fn read(ending: &Bytes) -> Vec<(String, Value)> {
    let events = Events::new(ending).map(|event| {
        let name = String::from_utf8(event.name().unwrap().to_vec()).unwrap();
        let data: Value = serde_json::from_slice(&event.data().unwrap()).unwrap();
        assert_eq!(data["type"], name.as_str());
        (name, data)
    });
    events.collect()
}

#[test]
fn what_is_open_is_closed_with_what_has_come() {
    let stream = [
        created(),
        event("response.output_item.added", json!({ "output_index": 0, "item": { "id": "rs_1", "type": "reasoning" } })),
        event("response.output_item.done", json!({ "output_index": 0, "item": { "id": "rs_1", "type": "reasoning", "summary": ["s"] } })),
        event("response.output_item.added", json!({ "output_index": 1, "item": { "id": "msg_1", "type": "message", "status": "in_progress", "content": [] } })),
        event("response.content_part.added", json!({ "output_index": 1, "content_index": 0, "part": { "type": "output_text", "text": "", "annotations": [] } })),
        event("response.content_part.done", json!({ "output_index": 1, "content_index": 0, "part": { "type": "output_text", "text": "one ", "annotations": [] } })),
        event("response.content_part.added", json!({ "output_index": 1, "content_index": 1, "part": { "type": "output_text", "text": "", "annotations": [] } })),
    ]
    .concat();
    let usage = Usage {
        input: 5,
        output: 2,
        ..Usage::default()
    };
    let block = "event: response.output_text.delta\ndata: {\"sequence_number\":9,\"delta\":\"o\"}\n\n: ping\n\n";
    let text = |index| (index == 1).then(|| "one two".to_owned());
    let ending = outline(&stream).ending(block.as_bytes(), text, Some(&usage));
    let events = read(&ending.unwrap());
    let kinds: Vec<&str> = events.iter().map(|(kind, _)| &**kind).collect();
    assert_eq!(
        kinds,
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete"
        ]
    );
    for (number, (_, event)) in (10..).zip(&events) {
        assert_eq!(event["sequence_number"], number);
    }
    let (text, item) = (&events[0].1, &events[2].1["item"]);
    assert_eq!(
        (&text["text"], &text["item_id"], &text["content_index"]),
        (&json!("two"), &json!("msg_1"), &json!(1))
    );
    assert_eq!(item["status"], "incomplete");
    assert_eq!(item["content"][0]["text"], "one ");
    assert_eq!(item["content"][1]["text"], "two");
    let response = &events[3].1["response"];
    assert_eq!(
        (&response["id"], &response["status"]),
        (&json!("resp_1"), &json!("incomplete"))
    );
    assert_eq!(
        response["incomplete_details"],
        json!({ "reason": "max_output_tokens" })
    );
    assert_eq!(
        response["output"],
        json!([{ "id": "rs_1", "type": "reasoning", "summary": ["s"] }, item])
    );
    assert_eq!(response["usage"]["total_tokens"], 7);
}

#[test]
fn the_call_of_a_function_is_told_and_not_said_to_be_done() {
    let call = json!({ "id": "fc_1", "type": "function_call", "name": "f", "arguments": "" });
    let stream = created()
        + &event(
            "response.output_item.added",
            json!({ "output_index": 0, "item": call }),
        );
    let block = "data: {\"type\":\"response.function_call_arguments.delta\"}\n\n";
    let ending = outline(&stream).ending(block.as_bytes(), |_| Some("{\"a\":".into()), None);
    let ending = String::from_utf8(ending.unwrap().to_vec()).unwrap();
    assert!(
        ending.starts_with("data: {"),
        "no names, as before: {ending}"
    );
    let ending: Value = serde_json::from_str(ending["data: ".len()..].trim_end()).unwrap();
    assert_eq!(ending["type"], "response.incomplete");
    assert_eq!(ending.get("sequence_number"), None, "no numbers, as before");
    let item = &ending["response"]["output"][0];
    assert_eq!(
        (&item["arguments"], &item["status"]),
        (&json!("{\"a\":"), &json!("incomplete"))
    );
    assert_eq!(ending["response"]["usage"], Value::Null);
}

#[test]
fn what_is_not_known_is_not_invented_and_memory_is_bounded() {
    let none = Outline::default().ending(b"data: {}\n\n", |_| None, None);
    assert_eq!(none, None);
    let item = json!({ "output_index": 0, "item": { "id": "m", "type": "message" } });
    let stream = created() + &event("response.output_item.added", item);
    let ending = outline(&stream).ending(b"", |_| None, None).unwrap();
    let ending = String::from_utf8(ending.to_vec()).unwrap();
    assert!(
        ending.contains("\"output\":[]"),
        "its text was let go: {ending}"
    );

    let large = json!({ "output_index": 1, "item": { "id": "x".repeat(KEPT) } });
    let mut stream = created();
    for _ in 0..3 {
        stream += &event("response.output_item.added", large.clone());
    }
    let outline = outline(&stream);
    assert!(outline.items.is_empty() && outline.size <= KEPT);
}
