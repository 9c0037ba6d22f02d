//! The nearest valid name, for errors about unknown ones. Pure.

/// A longer string is a value in place of a name; the distance takes time and memory by the length.
const NAME_MAX: usize = 100;

/// The nearest of `names`, when it is near enough to be meant.
pub(crate) fn nearest<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if name.is_empty() || name.len() > NAME_MAX {
        return None;
    }
    let name = name.to_lowercase();
    names
        .map(|other| (distance(&name, &other.to_lowercase()), other))
        .filter(|(distance, other)| *distance <= 1.max(name.len().min(other.len()) / 3))
        .min_by_key(|(distance, other)| (*distance, other.len().abs_diff(name.len())))
        .map(|(_, other)| other)
}

/// The beginning of a name counts as one edit.
fn distance(name: &str, other: &str) -> usize {
    if name != other && (name.starts_with(other) || other.starts_with(name)) {
        return 1;
    }
    strsim::damerau_levenshtein(name, other)
}

/// The end of an error about an unknown name: ``did you mean `x`?``, or the names that there are.
pub(crate) fn suggestion(found: &str, allowed: &[&str]) -> String {
    match nearest(found, allowed.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("there are `{}`", allowed.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_near_enough_to_be_meant() {
        let names = ["topic", "topics", "handler"];
        for (found, expected) in [
            ("handlr", Some("handler")),
            ("Topic", Some("topic")),
            ("topi", Some("topic")),
            ("retries", None),
            ("", None),
        ] {
            assert_eq!(nearest(found, names.into_iter()), expected, "{found}");
        }
        assert_eq!(nearest(&"topic".repeat(30), names.into_iter()), None);
    }

    #[test]
    fn a_suggestion_lists_the_names_where_none_is_near() {
        assert_eq!(suggestion("tpic", &["topic"]), "did you mean `topic`?");
        assert_eq!(
            suggestion("x", &["topic", "name"]),
            "there are `topic`, `name`"
        );
    }
}
