//! Drawing: folded stacks as an SVG that opens in a browser, with search and zoom.

use std::io;

use inferno::{differential, flamegraph};

/// What the picture cannot show, said in it.
const SUBTITLE: &str = "processor time of the workers, measured phase only; sampled by cpu-clock: a wait for memory is billed \
     to the instruction after it, cache misses are not shown";

fn options(title: &str, subtitle: &str) -> flamegraph::Options<'static> {
    let mut options = flamegraph::Options::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle.to_owned());
    options.count_name = "ns".to_owned();
    options.deterministic = true;
    options.hash = true;
    options.min_width = 0.05;
    options.image_width = Some(1400);
    options
}

/// One profile.
///
/// # Errors
/// Where there is nothing to draw.
pub fn graph(title: &str, lines: &[String]) -> io::Result<Vec<u8>> {
    let mut svg = Vec::new();
    let lines = lines.iter().map(String::as_str);
    flamegraph::from_lines(&mut options(title, SUBTITLE), lines, &mut svg)?;
    Ok(svg)
}

/// Two profiles, brought to one sum: widths are those of `after`, red is what grew since `before`, blue what shrank.
/// What is not in `after` any more has no width there: see it with `before` and `after` changed and `is_reverse`, which
/// turns the colours around, so that red still is what grew.
///
/// # Errors
/// Where there is nothing to draw, or a line is no folded stack.
pub fn difference(
    title: &str,
    before: &[String],
    after: &[String],
    is_reverse: bool,
) -> io::Result<Vec<u8>> {
    let mut folded = Vec::new();
    let how = differential::Options {
        normalize: true,
        ..differential::Options::default()
    };
    let (before, after) = (before.join("\n"), after.join("\n"));
    differential::from_readers(how, before.as_bytes(), after.as_bytes(), &mut folded)?;
    let widths = if is_reverse { "base" } else { "new profile" };
    let subtitle = format!("widths of the {widths}; red grew, blue shrank. {SUBTITLE}");
    let mut options = options(title, &subtitle);
    options.negate_differentials = is_reverse;
    let mut svg = Vec::new();
    flamegraph::from_reader(&mut options, folded.as_slice(), &mut svg)?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn the_picture_has_the_functions_and_says_what_it_cannot_show() {
        let svg = graph("a title", &lines(&["run;lookup 10", "run;connect 30"])).unwrap();
        let svg = String::from_utf8(svg).unwrap();
        for text in [
            "<svg",
            "a title",
            "lookup",
            "connect",
            "cache misses are not shown",
        ] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn a_difference_is_drawn_both_ways_with_each_sides_own_functions() {
        let (before, after) = (
            lines(&["run;old 10", "run;both 10"]),
            lines(&["run;both 20"]),
        );
        let forth = String::from_utf8(difference("d", &before, &after, false).unwrap()).unwrap();
        let back = String::from_utf8(difference("d", &after, &before, true).unwrap()).unwrap();
        assert!(forth.contains("both") && back.contains("run"));
        assert!(
            back.contains("old"),
            "what went away is seen in the reverse picture"
        );
    }

    #[test]
    fn nothing_cannot_be_drawn() {
        assert!(graph("t", &[]).is_err());
    }
}
