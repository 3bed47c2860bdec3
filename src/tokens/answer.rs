//! The completion tokens of a whole answer.

use super::meter::Meter;
use super::prompt::{MEMBERS, spoken};
use super::{Encoding, estimate};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{each_element, each_member};

/// Returns the completion tokens of a plain answer, counted by the encoding or, where that is not known, estimated:
/// texts, refusals, reasoning that is shown, and the calls of tools. Embeddings generate nothing.
pub fn answer(encoding: Option<Encoding>, endpoint: &Endpoint, body: &[u8]) -> u64 {
    let mut meter = Meter::new(encoding);
    let is_whole = match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            each_member(body, &["choices"], |_, choices| {
                each_element(choices, |choice| self::choice(&mut meter, choice));
            })
        }
        Endpoint::Responses => each_member(body, &["output"], |_, output| {
            each_element(output, |item| message(&mut meter, item));
        }),
        _ => return 0,
    };
    if is_whole {
        meter.tokens()
    } else {
        estimate(body)
    }
}

fn choice(meter: &mut Meter, choice: &[u8]) {
    each_member(choice, &["message", "text"], |place, value| match place {
        0 => message(meter, value),
        _ => {
            meter.string(value);
        }
    });
}

/// Adds what was generated of a message, which its role was not.
fn message(meter: &mut Meter, message: &[u8]) {
    each_member(message, &MEMBERS, |place, value| {
        if MEMBERS[place] != "role" {
            spoken(meter, MEMBERS[place], value);
        }
    });
}
