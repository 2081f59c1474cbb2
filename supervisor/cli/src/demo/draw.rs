//! A digit and a list of bars, as lines for a terminal.

use std::fmt::Write;

use crate::demo::sample::{INK, SIDE};
use crate::screen::Screen;

/// What a terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Palette {
    /// Grey levels, two to a character by a half block.
    Greys,
    /// Shades as Unicode has them.
    Shades,
    /// Letters and signs.
    Ascii,
}

impl Palette {
    /// The best that this screen has.
    pub(crate) fn of(screen: &Screen) -> Self {
        match (screen.utf8(), screen.colour()) {
            (false, _) => Self::Ascii,
            (true, false) => Self::Shades,
            (true, true) => Self::Greys,
        }
    }
}

/// A drawing: its lines, and how many columns they take.
#[derive(Debug)]
pub(crate) struct Drawing {
    pub(crate) lines: Vec<String>,
    pub(crate) width: usize,
}

/// The image, in squares of about the same height and width.
pub(crate) fn digit(pixels: &[u8], palette: Palette) -> Drawing {
    match palette {
        Palette::Greys => greys(pixels),
        Palette::Shades => shades(pixels, &[' ', '░', '▒', '▓', '█']),
        Palette::Ascii => shades(pixels, &[' ', '.', '+', '%', '@']),
    }
}

/// A bar for each score, which is 0 to 1.
pub(crate) fn bars(scores: &[f64], palette: Palette) -> Vec<String> {
    const LONGEST: usize = 24;
    let block = if palette == Palette::Ascii { "#" } else { "█" };
    let bar = |(digit, score): (usize, &f64)| {
        let score = score.clamp(0.0, 1.0);
        // Between 0 and LONGEST after the clamp; not a number gives 0.
        let length = (score * LONGEST as f64).round() as usize;
        format!("{digit} {}{} {score:.3}", block.repeat(length), " ".repeat(LONGEST - length.min(LONGEST)))
    };
    scores.iter().enumerate().map(bar).collect()
}

/// Two drawings side by side.
pub(crate) fn beside(left: &Drawing, right: &[String]) -> Vec<String> {
    let rows = left.lines.len().max(right.len());
    let blank = " ".repeat(left.width);
    let row = |i: usize| {
        let cell = left.lines.get(i).map_or(blank.as_str(), String::as_str);
        format!("  {cell}   {}", right.get(i).map_or("", String::as_str)).trim_end().to_owned()
    };
    (0..rows).map(row).collect()
}

/// Each pixel is three columns by three half rows.
fn greys(pixels: &[u8]) -> Drawing {
    const SCALE: usize = 3;
    // The 24 greys of the 256 colours begin at 232.
    let grey = |half_row: usize, column: usize| 232 + level(pixels, half_row / SCALE, column, 23);
    let line = |row: usize| {
        let mut line = String::new();
        for column in 0..SIDE {
            let (upper, lower) = (grey(2 * row, column), grey(2 * row + 1, column));
            let _ = write!(line, "\x1b[38;5;{upper};48;5;{lower}m▀▀▀");
        }
        line + "\x1b[0m"
    };
    Drawing { lines: (0..SIDE * SCALE / 2).map(line).collect(), width: SIDE * SCALE }
}

/// Each pixel is two columns by one row.
fn shades(pixels: &[u8], signs: &[char; 5]) -> Drawing {
    let sign = |row, column| signs[usize::from(level(pixels, row, column, 4)).min(4)];
    let line = |row| (0..SIDE).flat_map(|column| [sign(row, column); 2]).collect();
    Drawing { lines: (0..SIDE).map(line).collect(), width: SIDE * 2 }
}

/// A pixel's ink, from 0 to `most`.
fn level(pixels: &[u8], row: usize, column: usize, most: u16) -> u16 {
    let ink = u16::from(pixels.get(row * SIDE + column).copied().unwrap_or(0).min(INK));
    (ink * most + u16::from(INK) / 2) / u16::from(INK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pixel_is_where_it_belongs() {
        let mut pixels = [0; SIDE * SIDE];
        (pixels[0], pixels[SIDE + 2], pixels[63]) = (16, 8, 4);
        let drawn = digit(&pixels, Palette::Shades);
        assert_eq!(drawn.lines[0], format!("██{}", " ".repeat(14)));
        assert_eq!(drawn.lines[1], format!("    ▒▒{}", " ".repeat(10)));
        assert_eq!(drawn.lines[7], format!("{}░░", " ".repeat(14)));
        let greys = digit(&pixels, Palette::Greys);
        assert_eq!((greys.lines.len(), greys.width), (12, 24));
        // The first pixel is three half rows high: both halves of the first line, the upper half of the second.
        assert!(greys.lines[0].starts_with("\x1b[38;5;255;48;5;255m▀▀▀"), "{:?}", greys.lines[0]);
        assert!(greys.lines[1].starts_with("\x1b[38;5;255;48;5;232m▀▀▀"), "{:?}", greys.lines[1]);
    }

    #[test]
    fn any_ink_and_any_score_can_be_drawn() {
        for palette in [Palette::Greys, Palette::Shades, Palette::Ascii] {
            for pixels in [vec![255; 64], vec![], vec![16; 63]] {
                assert!(digit(&pixels, palette).lines.len() >= SIDE);
            }
            let drawn = bars(&[0.0, 1.0, -3.0, 1e300, f64::NAN, f64::INFINITY, 0.5], palette);
            assert!(drawn.iter().all(|bar| bar.chars().count() <= 34), "{drawn:?}");
        }
        assert!(digit(&[16; 64], Palette::Ascii).lines.iter().all(|l| l.is_ascii()));
        let both = beside(&digit(&[16; 64], Palette::Ascii), &bars(&[0.5; 10], Palette::Ascii));
        assert_eq!(both.len(), 10);
        assert!(both[9].starts_with(&" ".repeat(21)));
    }
}
