//! What the demo shows: the digit and the answer, the times, the cage.

use std::time::Duration;

use casemate_ipc::layer::{Layer, Waiver};

use crate::demo::Asked;
use crate::demo::client::Status;
use crate::demo::draw::{self, Palette};
use crate::demo::sample::Sample;
use crate::escape::short;
use crate::screen::{Screen, Tone};

/// The digit, beside it how likely the model finds each one, and whether it is right.
pub(crate) fn answer(screen: &mut Screen, sample: &Sample, asked: &Asked) {
    let palette = Palette::of(screen);
    screen.line("A digit that somebody wrote, and that the model was not trained on:");
    screen.line("");
    for line in draw::beside(&draw::digit(&sample.pixels, palette), &draw::bars(&asked.scores, palette)) {
        screen.line(line);
    }
    screen.line("");
    let (tone, verdict) = if asked.right { (Tone::Good, "right") } else { (Tone::Bad, "wrong") };
    let answer = screen.tone(Tone::Strong, asked.digit);
    let verdict = screen.tone(tone, verdict);
    screen.line(format_args!("The model says {answer}; its writer meant {}: {verdict}.", sample.label));
}

/// The first request's time, and the median of the others.
pub(crate) fn times(screen: &mut Screen, first: &Asked, rest: &[Asked]) {
    let mut times: Vec<Duration> = rest.iter().map(|asked| asked.took).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let right = rest.iter().filter(|asked| asked.right).count();
    screen.line(format_args!(
        "It took {} there and back; the median of {} more is {}, with {right} of {} right.",
        milliseconds(first.took),
        rest.len(),
        milliseconds(median),
        rest.len(),
    ));
}

/// The layers as the kernel answered; true where every one that was not waived is in force.
pub(crate) fn cage(screen: &mut Screen, status: &Status, waived: &[Waiver]) -> bool {
    let rows = rows(status, waived);
    screen.line("");
    let whose = status.pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    screen.line(format_args!("The cage around its worker{whose}, as read back from the kernel:"));
    let (yes, no, without) = if screen.utf8() { ("✓", "✗", "–") } else { ("yes", "NO", "-") };
    for Row { name, state, evidence } in &rows {
        let (tone, mark) = match state {
            State::InForce => (Tone::Good, yes),
            State::Waived => (Tone::Warn, without),
            State::Missing => (Tone::Bad, no),
        };
        let mark = screen.tone(tone, format_args!("{mark:3}"));
        screen.line(format!("  {mark} {:20} {}", short(name, 40), short(evidence, 200)).trim_end());
    }
    let missing = rows.iter().filter(|row| row.state == State::Missing).count();
    if missing > 0 {
        screen.line(screen.tone(Tone::Bad, format_args!("{missing} of {} layers are not in force.", rows.len())));
    }
    missing == 0
}

#[derive(Debug)]
struct Row {
    name: String,
    state: State,
    evidence: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    InForce,
    /// Not in force, and the config or the house does without.
    Waived,
    Missing,
}

/// Every layer that there is, whether the server speaks of it or not, and those that only the server knows.
fn rows(status: &Status, waived: &[Waiver]) -> Vec<Row> {
    let known = Layer::ALL.into_iter().map(|layer| {
        let read = status.cage.iter().find(|read| read.layer == layer.name());
        let accepted = layer.excused_by(waived);
        let state = match read {
            Some(read) if read.in_force => State::InForce,
            _ if accepted => State::Waived,
            _ => State::Missing,
        };
        let silent = "the server does not speak of it";
        let evidence = read.map_or(silent, |read| read.evidence.as_str()).to_owned();
        Row { name: layer.name().to_owned(), state, evidence }
    });
    let others = status.cage.iter().filter(|read| Layer::ALL.iter().all(|layer| layer.name() != read.layer));
    let others = others.map(|read| {
        let state = if read.in_force { State::InForce } else { State::Missing };
        Row { name: read.layer.clone(), state, evidence: read.evidence.clone() }
    });
    known.chain(others).collect()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::client;

    fn status(out_of_force: &[Layer], left_out: Option<Layer>) -> Status {
        let layers = Layer::ALL.into_iter().filter(|layer| Some(*layer) != left_out);
        let cage = layers.map(|layer| client::Layer {
            layer: layer.name().to_owned(),
            in_force: !out_of_force.contains(&layer),
            evidence: "read".to_owned(),
        });
        Status { cage: cage.collect(), pid: Some(1), failed: None }
    }

    #[test]
    fn a_layer_counts_only_if_it_is_in_force_or_waived() {
        let whole = |status: &Status, waived: &[Waiver]| rows(status, waived).iter().all(|r| r.state != State::Missing);
        assert!(whole(&status(&[], None), &[]));
        assert!(whole(&status(&[Layer::OwnIdentity], None), &[Waiver::OwnIdentity]));
        assert!(!whole(&status(&[Layer::OwnIdentity], None), &[]));
        assert!(!whole(&status(&[Layer::Seccomp], None), &[Waiver::OwnIdentity, Waiver::Landlock, Waiver::Namespaces]));
        assert!(!whole(&status(&[], Some(Layer::Seccomp)), &[]), "a layer that nobody speaks of is not in force");
    }
}
