//! What a load found, as a table to paste and as JSON.

use std::time::Duration;

use casemate_load::{Histogram, Tally};
use serde_json::{Value, json};

use super::Args;
use super::trace::Stage;
use crate::escape::ascii_json;
use crate::model::Bytes;
use crate::screen::{Screen, Tone};

/// All of it.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) args: &'a Args,
    pub(crate) tally: &'a Tally,
    /// Where it was asked for; empty where the server does not trace.
    pub(crate) stages: Option<&'a [Stage]>,
    /// Bytes of a request's body.
    pub(crate) body: usize,
}

/// The shares that are shown, and their names.
const SHARES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)];

/// Of what is due, the share that must be answered in time for a rate to count as kept.
const KEPT: f64 = 0.95;

impl Found<'_> {
    /// Markdown.
    pub(crate) fn table(&self, screen: &mut Screen) {
        let Self { args, tally, .. } = self;
        let pace = match args.connections {
            Some(1) => "1 connection".to_owned(),
            Some(many) => format!("{many} connections"),
            None => format!("{} requests/s", args.rate),
        };
        let (rows, body) = (args.rows, Bytes(self.body as u64));
        screen.line(format_args!("{}, {pace}, {} s, rows: {rows}, body: {body}", args.model, args.seconds));
        screen.line("");
        let names: Vec<&str> = SHARES.iter().map(|(name, _)| *name).collect();
        screen.line(format_args!("| answers | failed | answers/s | mean | {} | longest |", names.join(" | ")));
        screen.line(format_args!("|---|---|---|---|{}---|", "---|".repeat(SHARES.len())));
        let shares: Vec<String> = SHARES.iter().map(|(_, share)| time(tally.good.quantile(*share))).collect();
        screen.line(format_args!(
            "| {} | {} | {:.1} | {} | {} | {} |",
            tally.good.count(),
            tally.failed(),
            tally.per_second(),
            time(tally.good.mean()),
            shares.join(" | "),
            time(tally.good.longest())
        ));
        if let Some(failures) = self.failures() {
            screen.line("");
            screen.line(screen.tone(Tone::Bad, format_args!("Failed: {failures}.")));
        }
        if args.connections.is_none() && tally.per_second() < args.rate * KEPT {
            screen.line("");
            let rate = tally.per_second();
            let text = format!(
                "It answered {rate:.1} in a second of {} that were due: latencies grow with the length \
                                of the run. A lower --rate shows what it can keep.",
                args.rate
            );
            screen.line(screen.tone(Tone::Warn, text));
        }
        if let Some(stages) = self.stages {
            screen.line("");
            trace(screen, stages);
        }
    }

    /// One object.
    pub(crate) fn json(&self, screen: &mut Screen) {
        screen.line(ascii_json(&self.value()));
    }

    fn value(&self) -> Value {
        let Self { args, tally, stages, body } = self;
        let refused: serde_json::Map<String, Value> =
            tally.refused.iter().map(|(status, count)| (status.to_string(), json!(count))).collect();
        let mut value = json!({
            "model": args.model.to_string(),
            "rate": args.connections.is_none().then_some(args.rate),
            "connections": args.connections,
            "seconds": args.seconds,
            "rows": args.rows,
            "body_bytes": body,
            "answers": tally.good.count(),
            "refused": refused,
            "unanswered": tally.unanswered,
            "answers_per_second": tally.per_second(),
            "latency_us": latencies(&tally.good),
        });
        if let (Some(stages), Some(object)) = (stages, value.as_object_mut()) {
            let stages = stages.iter().map(|stage| json!({"stage": stage.name, "latency_us": latencies(&stage.times)}));
            object.insert("trace".to_owned(), stages.collect());
        }
        value
    }

    /// What went wrong how often.
    fn failures(&self) -> Option<String> {
        let mut parts: Vec<String> =
            self.tally.refused.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        if self.tally.unanswered > 0 {
            parts.push(format!("{} without an answer", self.tally.unanswered));
        }
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

fn trace(screen: &mut Screen, stages: &[Stage]) {
    if stages.is_empty() {
        let text = "The server tells no stages: its config needs `trace = true` under [listen].";
        screen.line(screen.tone(Tone::Warn, text));
        return;
    }
    screen.line("| stage | p50 | p99 |");
    screen.line("|---|---|---|");
    for Stage { name, times } in stages {
        screen.line(format_args!("| {name} | {} | {} |", time(times.quantile(0.5)), time(times.quantile(0.99))));
    }
}

fn latencies(times: &Histogram) -> Value {
    let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    let mut all: serde_json::Map<String, Value> =
        SHARES.iter().map(|(name, share)| ((*name).to_owned(), json!(us(times.quantile(*share))))).collect();
    all.insert("mean".to_owned(), json!(us(times.mean())));
    all.insert("longest".to_owned(), json!(us(times.longest())));
    all.into()
}

/// Three digits, in the unit in which they are read most easily.
fn time(time: Duration) -> String {
    let us = time.as_secs_f64() * 1e6;
    match us {
        us if us < 1e3 => format!("{us:.0} us"),
        us if us < 1e4 => format!("{:.2} ms", us / 1e3),
        us if us < 1e5 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let shown = [85, 1234, 12_340, 123_400, 1_234_000].map(|us| time(Duration::from_micros(us)));
        assert_eq!(shown, ["85 us", "1.23 ms", "12.3 ms", "123 ms", "1.23 s"]);
    }
}
