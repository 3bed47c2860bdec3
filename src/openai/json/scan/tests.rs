use super::*;

fn is_json(text: &str) -> bool {
    let mut scanner = Scanner::new(text.as_bytes());
    scanner.value(8).and_then(|_| scanner.end()).is_ok()
}

#[test]
fn takes_the_grammar() {
    for text in [
        "0",
        "-0",
        "10.50",
        "1e9",
        "1E-09",
        "-0.0e+0",
        "\"\"",
        "\"\\u00e9\\n\"",
        "true",
        "null",
        "[]",
        " [ ] ",
        "{ }",
        "[1,[2,{}],{\"a\":[]}]",
        "\"\\ud800\"",
        "\"\u{7f}\u{10ffff}\"",
    ] {
        assert!(is_json(text), "{text}");
    }
}

#[test]
fn refuses_everything_else() {
    for text in [
        "",
        " ",
        "00",
        "-",
        "+1",
        ".5",
        "1.",
        "1e",
        "1e+",
        "0x1",
        "NaN",
        "'a'",
        "\"",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\\u12",
        "\"\n\"",
        "tru",
        "nulll",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1]",
        "[",
        "{",
        "1 2",
        "\u{feff}1",
        "\u{a0}1",
        "/**/1",
    ] {
        assert!(!is_json(text), "{text}");
    }
}

#[test]
fn counts_levels_and_keeps_their_kinds() {
    let nested = |depth: usize| {
        let mut text = String::new();
        for level in 0..depth {
            text.push_str(if level % 3 == 0 { "{\"a\":" } else { "[" });
        }
        text.push('1');
        for level in (0..depth).rev() {
            text.push(if level % 3 == 0 { '}' } else { ']' });
        }
        text
    };
    for depth in [1, 2, 63, 64, 65, 127, 128, 129, 200, 1000] {
        let text = nested(depth);
        assert!(
            Scanner::new(text.as_bytes()).value(depth).is_ok(),
            "{depth}"
        );
        assert_eq!(
            Scanner::new(text.as_bytes()).value(depth - 1),
            Err(ScanError::TooDeep)
        );
    }
}

#[test]
fn finds_the_first_special_byte_wherever_it_stands() {
    for length in 0..100 {
        for at in 0..length {
            for special in [b'"', b'\\', 0, 0x1f] {
                let mut bytes = vec![0xff; length];
                bytes[at] = special;
                assert_eq!(find_special(&bytes, 0), at);
                assert_eq!(find_special(&bytes, at + 1), length);
            }
        }
    }
}
