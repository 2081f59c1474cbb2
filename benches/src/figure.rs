//! What a bench finds: a time, and what it is compared with.

use std::time::Duration;

use serde::Serialize;

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    figure: String,
    value: f64,
    unit: &'static str,
    baseline: Option<f64>,
    of: Option<&'static str>,
    ratio: Option<f64>,
}

impl Figure {
    /// A time beside another of the same run.
    pub(crate) fn against(figure: String, value: Duration, baseline: Duration, of: &'static str) -> Self {
        let (value, baseline) = (micros(value), micros(baseline));
        Self { figure, value, unit: "us", baseline: Some(baseline), of: Some(of), ratio: Some(value / baseline) }
    }

    /// A time by itself.
    pub(crate) fn alone(figure: String, value: Duration) -> Self {
        Self { figure, value: micros(value), unit: "us", baseline: None, of: None, ratio: None }
    }
}

/// The figures as a Markdown table.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut text = String::from("| figure | µs | baseline µs | ratio |\n|---|---|---|---|\n");
    for Figure { figure, value, baseline, of, ratio, .. } in figures {
        let baseline = baseline.zip(*of).map_or("–".to_owned(), |(time, of)| format!("{time:.0} ({of})"));
        let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        text += &format!("| {figure} | {value:.0} | {baseline} | {ratio} |\n");
    }
    text
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
