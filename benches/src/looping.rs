//! A model that never comes back: its own requests end at their deadline, and what its neighbour feels.

use std::error::Error;
use std::time::{Duration, Instant};

use casemate_load::request::Body;
use casemate_load::{Histogram, Outcome, Request};
use casemate_tests::casemate::Setup;
use casemate_tests::models::{self, When};

use crate::figure::Figure;
use crate::model::Model;
use crate::neighbour::{self, Felt};

/// The looping model's deadline.
const DEADLINE: Duration = Duration::from_millis(1000);

pub(crate) fn run() -> Result<Vec<Figure>, Box<dyn Error>> {
    let digits = Model::digits()?;
    let deadline = format!("[limits]\ndeadline_ms = {}", DEADLINE.as_millis());
    let spec = (["x:FP32[-1,4]"], ["y:FP32[-1,4]"]);
    let endless = models::loop_forever(When::Asked);
    let setup = Setup::new().limit("breaker_deaths", 1000).model("endless", &endless, &spec.0, &spec.1, &deadline);
    digits.put(&setup, "neighbour", 32)?;
    let casemate = setup.serve();
    let row = [models::ASK * 2.0, 0.0, 0.0, 0.0].map(f32::to_le_bytes).concat();
    let request = Request::post("bench", "/v2/models/endless/infer", Body::Binary { json: "", tensors: &row });
    let (mut ends, mut times) = (Vec::new(), Histogram::default());
    let asked = digits.request("neighbour", 1)?;
    let felt = Felt::rounds(casemate.address, &asked, neighbour::nothing, |until| {
        while Instant::now() < until {
            neighbour::once(&casemate, "endless", &request, &mut |sample| {
                ends.push(sample.outcome);
                times.add(sample.took);
            })?;
        }
        Ok(())
    })?;
    if ends.is_empty() {
        return Err("no request met the loop".into());
    }
    let other = ends.iter().filter(|end| **end != Outcome::Answered(504)).count();
    let title = |what: &str| format!("a model that loops for ever: {what}");
    let late = times.quantile(0.5).as_secs_f64() / DEADLINE.as_secs_f64();
    let mut figures = vec![
        Figure::new(title("requests that ended otherwise than with 504"), other as f64, "requests").at_most(0.0),
        Figure::new(title("time until 504 over the deadline, median"), late, "ratio").at_most(1.1),
    ];
    figures.extend(felt.figures(&title));
    Ok(figures)
}
