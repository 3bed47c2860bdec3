//! What routes say of each other, and of the upstreams that they lead to.

use super::super::file::{Route, Target};
use super::super::reader::{Placed, Reader, Text, quote, suggest};
use super::super::types::{UpstreamConfig, UpstreamKind};
use crate::pattern::Pattern;

/// Reports routes that another before them takes everything from, and doubts those that it takes something from for no
/// better reason than that it stands before them.
pub(super) fn patterns(routes: &[Route], reader: &mut Reader<'_>) {
    let patterns: Vec<&Placed<Pattern>> = routes
        .iter()
        .filter_map(|route| route.model.as_ref())
        .collect();
    for (i, pattern) in patterns.iter().enumerate() {
        let covering = patterns[..i].iter().find(|other| {
            let equal = other.value.specificity() == pattern.value.specificity();
            equal && other.value.covers(&pattern.value)
        });
        if let Some(other) = covering {
            let message = if other.value == pattern.value {
                "another route before it has this model; write each model once".to_owned()
            } else {
                format!(
                    "is never reached: a route before it has {}; leave one out",
                    quote(other.value.as_str())
                )
            };
            reader.error(&pattern.at, message);
            continue;
        }
        let sharing = patterns[..i].iter().find(|other| {
            let equal = other.value.specificity() == pattern.value.specificity();
            equal && other.value.overlaps(&pattern.value)
        });
        if let Some(other) = sharing {
            let message = format!(
                "is as specific as {} before it, which takes the models that match both; put first what shall have them, or write one of the two more closely",
                quote(other.value.as_str())
            );
            reader.warning(&pattern.at, message);
        }
    }
}

/// Reports targets that ask a local model by a name that it has not: it would answer by another, and nobody would know.
pub(super) fn renames(upstreams: &[UpstreamConfig], routes: &[Route], reader: &mut Reader<'_>) {
    for target in routes.iter().flat_map(|route| &route.targets) {
        let (Some(name), Some(rename)) = (&target.upstream, &target.rename) else {
            continue;
        };
        let upstream = upstreams.iter().find(|other| other.name == name.value);
        let Some(upstream) = upstream.filter(|of| matches!(of.kind, UpstreamKind::Local(_))) else {
            continue;
        };
        let mut models = upstream.models.iter();
        if !models.any(|model| model.matches(&rename.value)) {
            let known: Vec<&str> = upstream.models.iter().map(Pattern::as_str).collect();
            let message = format!(
                "the local upstream {} has no model {}; {}",
                quote(&upstream.name),
                quote(&rename.raw),
                suggest(&rename.value, &known)
            );
            reader.error(&rename.at, message);
        }
    }
}

/// Reports targets that lead to the same model of the same upstream.
pub(super) fn alike(routes: &[Route], reader: &mut Reader<'_>) {
    for route in routes {
        // A pattern stands for many names, and no rename can be all of them.
        let asked = route.model.as_ref().map(|model| &model.value);
        let asked = asked.filter(|model| model.is_exact()).map(Pattern::as_str);
        let model = |target: &Target| {
            let rename = target.rename.as_ref().map(|text| text.value.clone());
            rename.or_else(|| asked.map(str::to_owned))
        };
        let upstream = |target: &Target| target.upstream.as_ref().map(|text| text.value.clone());
        for (i, target) in route.targets.iter().enumerate() {
            let before = route.targets[..i].iter().position(|other| {
                upstream(target).is_some()
                    && upstream(other) == upstream(target)
                    && model(other) == model(target)
            });
            if let Some(other) = before {
                let message = format!(
                    "leads to the same model of the same upstream as #{}; write it once, with a `weight` if it should get more",
                    other + 1
                );
                reader.error(&target.at, message);
            }
        }
    }
}

/// Reports targets whose upstream does not exist. Routes do not lead to routes, so there is no way in a circle; who
/// tries to write one is told so.
pub(super) fn upstreams<'t>(
    names: impl Iterator<Item = Option<&'t str>>,
    routes: &[Route],
    reader: &mut Reader<'_>,
) {
    let names: Vec<Option<&str>> = names.collect();
    for (i, route) in routes.iter().enumerate() {
        for text in route.targets.iter().filter_map(|t| t.upstream.as_ref()) {
            if names.contains(&Some(&text.value)) {
                continue;
            }
            match routes.iter().position(|other| is_of(other, text)) {
                Some(other) => {
                    let whose = if other == i { "this" } else { "another" };
                    let message = format!(
                        "{} is the model of {whose} route, and a route leads to upstreams only; write the `name` of an [[upstream]]",
                        quote(&text.raw)
                    );
                    reader.error(&text.at, message);
                }
                None => unknown(&names, text, "upstream", reader),
            }
        }
    }
}

fn is_of(route: &Route, text: &Text) -> bool {
    let model = route.model.as_ref();
    model.is_some_and(|model| model.value.as_str() == text.value)
}

/// Reports a name that stands for nothing.
pub(super) fn unknown(names: &[Option<&str>], text: &Text, what: &str, reader: &mut Reader<'_>) {
    // A name that could not be read may have been meant; it has been reported already.
    if names.contains(&None) {
        return;
    }
    let known: Vec<&str> = names.iter().flatten().copied().collect();
    let advice = match known.is_empty() {
        true => format!("write a [[{what}]] of that name"),
        false => suggest(&text.value, &known),
    };
    let message = format!("there is no {what} {}; {advice}", quote(&text.raw));
    reader.error(&text.at, message);
}
