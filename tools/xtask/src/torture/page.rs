//! report.html of two runs, as far as it does not tell of time: which block of the page differs, and whether it may.
//!
//! The page is cut where its blocks begin; a figure, with its curves and their JSON, is one block, and so is a number with its name
//! and what stands below it. JSON by itself is compared like any other; another block that differs must name a time or a speed, a
//! figure in its caption.

use super::error::Error;
use super::left::without_clock;
use serde_json::Value;
use std::fs;
use std::path::Path;

const BLOCKS: &[&str] = &[
    "<section", "<figure", "<svg", "<table", "<tr", "<li", "<p>", "<p ", "<dt", "<div", "<h1", "<h2", "<h3",
    "<script", "<footer", "<header",
];
const FIGURE: &str = "<figure";
/// What belongs to the block before it: a number and its remark to their name.
const WITHIN: &[&str] = &["<p class=\"value\"", "<p class=\"aside\""];
/// What a block that may differ speaks of.
const CLOCK: &[&str] = &[
    "tokens/s",
    "second",
    "minute",
    "hour",
    "elapsed",
    "time",
    " ms",
    " min",
    " s<",
    " h<",
    "% of peak",
    "speed",
    "stall",
    "2026-",
    "2027-",
];

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// There is none in either.
    Absent,
    /// The same, but for so many blocks that tell of time.
    Same(usize),
    /// Not the same: the first block that differs without telling of time.
    Different(String),
}

/// Compares the pages in two output folders.
pub(crate) fn compare(whole: &Path, parts: &Path) -> Result<Pages, Error> {
    let read = |out: &Path| {
        let path = out.join("report.html");
        match path.exists() {
            true => fs::read_to_string(&path).map(Some).map_err(Error::io("read", &path)),
            false => Ok(None),
        }
    };
    Ok(match (read(whole)?, read(parts)?) {
        (None, None) => Pages::Absent,
        (Some(whole), Some(parts)) => compare_texts(&whole, &parts),
        (Some(_), None) => Pages::Different("the interrupted run has none".into()),
        (None, Some(_)) => Pages::Different("the uninterrupted run has none".into()),
    })
}

fn compare_texts(whole: &str, parts: &str) -> Pages {
    let (a, b) = (blocks(whole), blocks(parts));
    let mut num_of_clock = 0;
    for (a, b) in a.iter().zip(&b).filter(|(a, b)| a != b) {
        let is_same_json = matches!((json(a), json(b)), (Some(a), Some(b)) if a == b);
        let tells_of_time = |block: &str| {
            let caption = block.split("</figcaption>").next().filter(|_| block.starts_with(FIGURE));
            let text = caption.unwrap_or(block).to_lowercase();
            CLOCK.iter().any(|word| text.contains(word))
        };
        let may_differ = json(a).is_none() && tells_of_time(a) && tells_of_time(b);
        if !is_same_json && !may_differ {
            let short = |text: &str| text.chars().take(300).collect::<String>();
            return Pages::Different(format!("expected `{}`, got `{}`", short(a), short(b)));
        }
        num_of_clock += 1;
    }
    match a.len() == b.len() {
        true => Pages::Same(num_of_clock),
        false => Pages::Different(format!("expected {} blocks, got {}", a.len(), b.len())),
    }
}

/// The pieces of a page, each from the beginning of a block to the next.
fn blocks(page: &str) -> Vec<&str> {
    let mut starts: Vec<usize> = BLOCKS
        .iter()
        .flat_map(|tag| page.match_indices(tag).map(|(at, _)| at))
        .chain([0, page.len()])
        .collect();
    starts.sort_unstable();
    starts.dedup();
    let mut end_of_figure = 0;
    starts.retain(|&at| {
        let rest = &page[at..];
        let is_inside = at < end_of_figure || WITHIN.iter().any(|tag| rest.starts_with(tag));
        if !is_inside && rest.starts_with(FIGURE) {
            end_of_figure = at + rest.find("</figure>").unwrap_or(0);
        }
        !is_inside
    });
    starts.windows(2).map(|pair| &page[pair[0]..pair[1]]).collect()
}

/// The JSON that a block of script holds, without what depends on the clock.
fn json(block: &str) -> Option<Value> {
    let text = block.strip_prefix("<script")?.split_once('>')?.1.split("</script").next()?;
    serde_json::from_str(text).ok().map(without_clock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tells_of_time_may_differ() {
        let page = |loss: &str, speed: &str| {
            format!(
                "<html><p>loss {loss}</p><p>{speed} tokens/s</p>\
                 <script type=\"application/json\">[{{\"loss\": {loss}, \"tokens_per_second\": {speed}}}]</script></html>"
            )
        };
        assert_eq!(compare_texts(&page("1.5", "10"), &page("1.5", "10")), Pages::Same(0));
        assert_eq!(compare_texts(&page("1.5", "10"), &page("1.5", "11")), Pages::Same(2));
        assert!(matches!(compare_texts(&page("1.5", "10"), &page("1.6", "10")), Pages::Different(_)));
        assert!(matches!(compare_texts("<p>a<p>b", "<p>a"), Pages::Different(_)));
        let number = |name: &str, value: &str| {
            format!(
                "<div><p class=\"name\">{name}</p><p class=\"value\">{value}</p><p class=\"aside\">x</p></div>"
            )
        };
        assert_eq!(
            compare_texts(&number("tokens a second", "1"), &number("tokens a second", "2")),
            Pages::Same(1)
        );
        assert!(matches!(compare_texts(&number("tokens", "1"), &number("tokens", "2")), Pages::Different(_)));
        let figure = |name: &str, path: &str| {
            format!(
                "<figure><figcaption>{name}</figcaption><svg>{path}</svg><script>[\"1 second\"]</script></figure>"
            )
        };
        assert_eq!(compare_texts(&figure("Speed", "1"), &figure("Speed", "2")), Pages::Same(1));
        assert!(matches!(compare_texts(&figure("Loss", "1"), &figure("Loss", "2")), Pages::Different(_)));
    }
}
