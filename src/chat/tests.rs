use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Answers each connection with the next text, and returns what was asked.
async fn serve(answers: Vec<String>) -> (SocketAddr, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            // The body is the last thing sent, and ends its JSON.
            while !request.ends_with(b"\"stream\":true}") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked.push(String::from_utf8(request).unwrap());
        }
        asked
    });
    (address, served)
}

fn answer(status: &str, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n{body}")
}

fn streamed(words: &[&str]) -> String {
    let mut body = String::new();
    for word in words {
        body += &format!("data: {{\"choices\":[{{\"delta\":{{\"content\":{word:?}}}}}]}}\n\n");
    }
    answer("200 OK", "text/event-stream", &(body + "data: [DONE]\n\n"))
}

/// Returns the exit code, standard output and standard error.
async fn chat(
    url: String,
    prompt: Option<&str>,
    input: &str,
    interactive: bool,
) -> (u8, String, String) {
    let mut bytes = input.as_bytes();
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let options = Options {
        url,
        key: Some(Secret::new("a-key-of-mine")),
        model: "poet".into(),
        prompt: prompt.map(str::to_owned),
    };
    let mut console = Console {
        input: &mut bytes,
        output: &mut output,
        errors: &mut errors,
        interactive,
    };
    let code = run(&options, &mut console).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (code, text(output), text(errors))
}

#[tokio::test]
async fn an_answer_is_printed_without_control_characters() {
    let (address, served) = serve(vec![
        streamed(&["Hel", "lo\t"]).replace("lo", "\\u001b[2Jlo"),
    ])
    .await;
    let (code, output, errors) = chat(format!("http://{address}/v1/"), Some("Hi"), "", true).await;
    assert_eq!(
        (code, output.as_str(), errors.as_str()),
        (0, "Hel[2Jlo\t\n", "")
    );
    let asked = served.await.unwrap().remove(0);
    assert!(
        asked.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{asked}"
    );
    assert!(
        asked.contains("authorization: Bearer a-key-of-mine\r\n"),
        "{asked}"
    );
    assert!(
        asked.ends_with(
            r#"{"model":"poet","messages":[{"role":"user","content":"Hi"}],"stream":true}"#
        ),
        "{asked}"
    );
}

#[tokio::test]
async fn a_conversation_remembers_what_was_answered() {
    let refused = answer(
        "503 Service Unavailable",
        "application/json",
        r#"{"error":{"message":"busy"}}"#,
    );
    let (address, served) = serve(vec![streamed(&["one"]), refused, streamed(&["three"])]).await;
    let url = format!("http://{address}/v1");
    let (code, output, errors) = chat(url.clone(), None, "a\n\nb\nc\n", true).await;
    assert_eq!(code, 0);
    assert_eq!(
        output,
        format!("poet at {url}; Ctrl-D ends\n> one\n> > > three\n> \n")
    );
    assert_eq!(errors, "weir chat: busy (503 Service Unavailable)\n");
    let last = served.await.unwrap().remove(2);
    let said = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"one"},{"role":"user","content":"c"}]"#;
    assert!(last.contains(said), "{last}");
}

#[tokio::test]
async fn a_piped_prompt_is_answered_once() {
    let plain = answer(
        "200 OK",
        "application/json",
        r#"{"choices":[{"message":{"content":"Hi"}}]}"#,
    );
    let (address, served) = serve(vec![plain]).await;
    let (code, output, _) = chat(format!("http://{address}/v1"), None, "two\nlines\n", false).await;
    assert_eq!((code, output.as_str()), (0, "Hi\n"));
    assert!(served.await.unwrap()[0].contains(r#""content":"two\nlines""#));
    let (code, _, errors) = chat(format!("http://{address}/v1"), None, "\n", false).await;
    assert_eq!(code, 1);
    assert!(errors.contains("no prompt"), "{errors}");
}

#[tokio::test]
async fn failures_are_told_and_exit_with_1() {
    let unknown = answer(
        "401 Unauthorized",
        "application/json",
        r#"{"error":{"message":"unknown key"}}"#,
    );
    let cut = answer(
        "200 OK",
        "text/event-stream",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
    );
    let failed = answer(
        "200 OK",
        "text/event-stream",
        "data: {\"error\":{\"message\":\"too slow\"}}\n\n",
    );
    let html = answer("502 Bad Gateway", "text/html", "<html>");
    for (answer, expected) in [
        (
            unknown,
            "weir chat: unknown key (401 Unauthorized)\nSet WEIR_KEY",
        ),
        (cut, "weir chat: the answer was cut off\n"),
        (failed, "weir chat: too slow\n"),
        (html, "weir chat: Bad Gateway (502 Bad Gateway)\n"),
    ] {
        let (address, _served) = serve(vec![answer]).await;
        let (code, _, errors) = chat(format!("http://{address}/v1"), Some("Hi"), "", false).await;
        assert_eq!(code, 1);
        assert!(errors.starts_with(expected), "{errors}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_with_a_hint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let (code, _, errors) = chat(url.clone(), Some("Hi"), "", false).await;
    let expected = format!(
        "weir chat: cannot connect to {url}: connection refused; is the gateway running? `weir` starts one\n"
    );
    assert_eq!((code, errors), (1, expected));
    for url in ["127.0.0.1:8080", "ftp://example.org", "/v1", "http://"] {
        let (code, _, errors) = chat(url.to_owned(), Some("Hi"), "", true).await;
        assert_eq!(code, 1);
        assert!(errors.contains("is no base URL"), "{errors}");
    }
}
