//! Values by patterns, to be found by names many times: exact names are looked up, and of all others the first that matches is
//! the most specific.

use rustc_hash::FxHashMap;

use super::Pattern;

/// Values by patterns of names. Of several patterns that match a name the most specific counts, among equals the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternMap<T> {
    exact: FxHashMap<Box<str>, T>,
    /// Those with stars, the most specific first.
    open: Vec<(Pattern, T)>,
}

// === impl PatternMap ===

impl<T> Default for PatternMap<T> {
    fn default() -> Self {
        Self {
            exact: FxHashMap::default(),
            open: Vec::new(),
        }
    }
}

impl<T> FromIterator<(Pattern, T)> for PatternMap<T> {
    fn from_iter<I: IntoIterator<Item = (Pattern, T)>>(patterns: I) -> Self {
        let mut map = Self::default();
        for (pattern, value) in patterns {
            match pattern.is_exact() {
                true => drop(map.exact.entry(pattern.as_str().into()).or_insert(value)),
                false => map.open.push((pattern, value)),
            }
        }
        map.open
            .sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.specificity()));
        map
    }
}

impl<T> PatternMap<T> {
    /// Returns the value of the most specific pattern that matches a name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.exact.get(name).or_else(|| {
            let mut open = self.open.iter();
            let (_, value) = open.find(|(pattern, _)| pattern.matches(name))?;
            Some(value)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::most_specific;
    use super::*;

    proptest! {
        #[test]
        fn finds_what_a_look_at_each_pattern_finds(
            patterns in prop::collection::vec("[ab*]{1,4}", 0..8),
            name in "[abc]{0,5}",
        ) {
            let patterns: Vec<Pattern> = patterns
                .iter()
                .map(|text| Pattern::parse(text).unwrap())
                .collect();
            let numbered = || patterns.iter().cloned().zip(0..);
            let map: PatternMap<usize> = numbered().collect();
            let expected = most_specific(patterns.iter().zip(0..), &name);
            prop_assert_eq!(map.get(&name).copied(), expected);
        }
    }
}
