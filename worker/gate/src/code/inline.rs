//! How large each function becomes when what it calls is written out in its place: 19 functions of two lines can become
//! half a million.

use std::collections::HashMap;

use super::{Body, Call, Code, MAX_INLINED};

/// A body's place, and what is wrong with it.
pub(super) type Fault = (usize, String);

/// Adds up from the leaves; no recursion, and every body once.
pub(super) fn check(code: &Code) -> Result<(), Fault> {
    let mut methods: HashMap<&str, Vec<usize>> = HashMap::new();
    for class in code.classes.values().filter(|class| !class.interface) {
        for (name, method) in &class.methods {
            methods.entry(name).or_default().push(*method);
        }
    }
    let none = Vec::new();
    let called = |at: usize, body: &Body| -> Vec<(Vec<usize>, u64)> {
        let targets = |(call, count): &(Call, u64)| {
            (
                match call {
                    Call::One(target) => vec![*target],
                    // Not itself: TorchScript's compiler knows no recursion, but through an interface, which is not written out.
                    Call::Any(name) => methods
                        .get(name.as_str())
                        .unwrap_or(&none)
                        .iter()
                        .copied()
                        .filter(|target| *target != at)
                        .collect(),
                },
                *count,
            )
        };
        body.calls.iter().map(targets).collect()
    };
    let mut sizes: Vec<State> = vec![State::New; code.bodies.len()];
    for start in 0..code.bodies.len() {
        let mut path = vec![start];
        while let Some(at) = path.last().copied() {
            let Some(body) = code.bodies.get(at) else { break };
            match sizes.get(at) {
                Some(State::Known(_)) => {
                    path.pop();
                    continue;
                }
                Some(State::New) => set(&mut sizes, at, State::Open),
                _ => {}
            }
            let calls = called(at, body);
            let state = |target: &usize| sizes.get(*target).copied().unwrap_or(State::Known(0));
            let open =
                calls.iter().flat_map(|(targets, _)| targets).find(|target| !matches!(state(target), State::Known(_)));
            if let Some(target) = open.copied() {
                if matches!(state(&target), State::Open) {
                    return Err((at, "it calls itself, or its calls cannot be told apart".to_owned()));
                }
                path.push(target);
                continue;
            }
            let largest = |targets: &Vec<usize>| {
                let known = targets.iter().map(|target| if let State::Known(n) = state(target) { n } else { 0 });
                known.max().unwrap_or(0)
            };
            let inside = calls.iter().map(|(targets, count)| largest(targets).saturating_mul(*count));
            let size = inside.fold(body.tokens.len() as u64, u64::saturating_add);
            if size > MAX_INLINED {
                return Err((
                    at,
                    format!("with all that it calls it has {size} tokens; at most {MAX_INLINED} are allowed"),
                ));
            }
            set(&mut sizes, at, State::Known(size));
            path.pop();
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum State {
    New,
    /// On the path from the start.
    Open,
    Known(u64),
}

fn set(sizes: &mut [State], at: usize, state: State) {
    if let Some(place) = sizes.get_mut(at) {
        *place = state;
    }
}
