use super::*;

#[test]
fn an_event_leaves_with_the_byte_that_completes_it() {
    for (stream, at) in [
        ("data: x\n\n", 9),
        ("data: x\r\r", 9),
        ("data: x\r\n\r\n", 10),
        ("data: x\n\r\n", 9),
        ("data: x\r\n\n", 10),
    ] {
        let mut framer = Framer::default();
        let mut out = Vec::new();
        for (i, byte) in stream.bytes().enumerate() {
            let ready = framer.push(Bytes::copy_from_slice(&[byte])).unwrap();
            assert_eq!(!ready.is_empty(), i + 1 >= at, "{stream:?} at {i}");
            out.extend_from_slice(&ready);
        }
        assert_eq!(out, stream.as_bytes(), "a late line feed passes at once");
        assert_eq!(framer.finish(), Tail::Nothing);
    }
}

#[test]
fn whole_events_leave_as_one_slice_of_their_chunk() {
    let chunk = Bytes::from("data: a\n\n".repeat(10) + "data: b");
    let mut framer = Framer::default();
    let ready = framer.push(chunk.clone()).unwrap();
    assert_eq!((ready.len(), ready.as_ptr()), (90, chunk.as_ptr()));
    assert_eq!(framer.held(), 7);
    let ready = framer
        .push(Bytes::from_static(b"\n\ndata: c\n\nd"))
        .unwrap();
    assert_eq!(ready, "data: b\n\ndata: c\n\n");
}

#[test]
fn drops_a_byte_order_mark_however_it_is_split() {
    let stream = b"\xef\xbb\xbfdata: x\n\n";
    for cut in 0..stream.len() {
        let (blocks, tail) = framed(stream, &[cut]);
        assert_eq!(blocks.concat(), b"data: x\n\n");
        assert_eq!(tail, Tail::Nothing);
    }
    let (blocks, _) = framed(b"\xef\xbb\n\n", &[1, 2]);
    assert_eq!(blocks.concat(), b"\xef\xbb\n\n", "half a mark is none");
    assert_eq!(framed(b"\xef\xbb", &[]).1, Tail::Truncated);
}

#[test]
fn an_event_beyond_the_bound_is_an_error_for_ever() {
    let too_large = Err(EventTooLarge { limit: 16 });
    for chunks in [
        &["data: 4567890123\n", "\n"][..],
        &["data: x\n\ndata: 4567890123\n\n"],
        &["data: x\n\ndata: 45678", "9012345"],
        &["xxxxxxxx", "xxxxxxxx", "x"],
    ] {
        let mut framer = Framer::new(16);
        let last = chunks
            .iter()
            .map(|c| framer.push(Bytes::from_static(c.as_bytes())))
            .last();
        assert_eq!(last, Some(too_large.clone()), "{chunks:?}");
        assert_eq!(framer.push(Bytes::from_static(b"\n\n")), too_large);
        assert_eq!((framer.held(), framer.finish()), (0, Tail::Truncated));
    }
    let mut framer = Framer::new(16);
    assert!(
        framer
            .push(Bytes::from("data: 89012345\n\n".repeat(3)))
            .is_ok()
    );
}

#[test]
fn tells_what_is_left_at_the_end() {
    let complete = |held: &str, missing: &str| {
        assert_eq!(
            framed(held.as_bytes(), &[]).1,
            Tail::Complete(format!("{held}{missing}").into()),
            "{held:?}"
        );
    };
    complete("data: [DONE]", "\n\n");
    complete("data: [DONE]\n", "\n");
    complete("data:[DONE]\r\n", "\n");
    complete("data: {\"a\":1}\r", "\n\n");
    complete("event: x\ndata: {\"a\":\ndata: 1}\n: c", "\n\n");
    for held in ["", "\n", ": ping", ": ping\n", "data: x\n\n"] {
        assert_eq!(framed(held.as_bytes(), &[]).1, Tail::Nothing, "{held:?}");
    }
    for held in [
        "data: {\"a\":1",
        "data: [DONE",
        "data: 12",
        "data:",
        "da",
        "event: x\n",
        "data: {}\ndat",
        "data: \"\u{e9}",
    ] {
        assert_eq!(framed(held.as_bytes(), &[]).1, Tail::Truncated, "{held:?}");
    }
    assert_eq!(framed(b"data: {\"a\":\"\xff\"}", &[]).1, Tail::Truncated);
}

#[test]
fn reads_fields_as_the_specification_words_them() {
    let event = Event::parse(b": c\nid: 7\ndata:  two\nevent:x\ndata\ndata:three\n\nrest");
    assert_eq!(event.name(), Some(&b"x"[..]));
    assert_eq!(event.data().unwrap(), &b" two\n\nthree"[..]);
    assert_eq!(event.raw().len(), 46);
    assert!(!event.is_comment_only() && !event.is_done());
    assert!(Event::parse(b": c\n\n").is_comment_only());
    assert!(Event::parse(b"data:[DONE]\n\n").is_done());
    assert!(Event::parse(b"").is_comment_only());
    assert_eq!(Event::parse(b"retry: 1\n\n").data(), None);
}

fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&[u8]] = &[
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"data",
        b"data: ",
        b"data:",
        b"event: e",
        b": c",
        b"id: 1",
        b":",
        b" ",
        b"{\"a\":1}",
        b"{\"choices\":[],\"usage\":{}}",
        b"{\"choices\":[1],\"usage\":null}",
        b"[DONE]",
        b"\"usage\":",
        b"\xef\xbb\xbf",
        b"\xef",
        b"\xff",
        b"\xe6\x98\xa5",
        b"x",
    ];
    prop::collection::vec(prop::sample::select(PIECES), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_split_yields_the_same_bytes_and_events(stream in any_stream(), cuts in any_cuts()) {
        let expected = reference(&stream);
        let (whole, tail) = framed(&stream, &[]);
        for cuts in [cuts, every_byte(&stream)] {
            let (blocks, split_tail) = framed(&stream, &cuts);
            prop_assert_eq!(blocks.concat(), whole.concat());
            prop_assert_eq!(&split_tail, &tail);
            let events: Vec<Seen> = blocks.iter().flat_map(|block| seen(block)).collect();
            prop_assert_eq!(&events, &expected);
        }
        let unmarked = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&stream);
        prop_assert!(unmarked.starts_with(&whole.concat()));
    }

    #[test]
    fn nothing_waits_for_a_byte_that_it_does_not_need(stream in any_stream()) {
        let mut framer = Framer::default();
        let mut events = Vec::new();
        for end in 1..=stream.len() {
            let ready = framer.push(Bytes::copy_from_slice(&stream[end - 1..end])).unwrap();
            events.extend(seen(&ready));
            prop_assert_eq!(&events, &reference(&stream[..end]));
        }
    }

    #[test]
    fn nothing_is_held_beyond_the_bound(stream in any_stream(), cuts in any_cuts()) {
        let mut framer = Framer::new(12);
        for chunk in chunks(&stream, &cuts) {
            let whole = framer.push(chunk);
            prop_assert!(framer.held() <= 12);
            for event in Events::new(&whole.unwrap_or_default()) {
                // And the line feed that nobody waits for.
                prop_assert!(event.raw().len() <= 12 + usize::from(event.raw().ends_with(b"\r\n")));
            }
        }
    }

    #[test]
    fn garbage_never_panics(stream in prop::collection::vec(any::<u8>(), 0..200), cuts in any_cuts()) {
        let (blocks, _) = framed(&stream, &cuts);
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses] {
            StreamObserver::new().observe(&stream, &endpoint);
        }
        prop_assert_eq!(UsageRemover::new().remove(&stream.into()).len() <= 200, true);
        drop(blocks);
    }

    #[test]
    fn the_kind_of_line_end_makes_no_difference(lines in prop::collection::vec("(data: ?|event:|: )?[a-z{]{0,3}", 0..12)) {
        let with = |end: &str| {
            let stream: String = lines.iter().map(|line| format!("{line}{end}")).collect();
            let (blocks, _) = framed(stream.as_bytes(), &[3, 10, 11]);
            blocks.iter().flat_map(|block| seen(block)).collect::<Vec<_>>()
        };
        prop_assert_eq!(with("\n"), with("\r\n"));
        prop_assert_eq!(with("\n"), with("\r"));
    }
}
