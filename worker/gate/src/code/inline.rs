//! How large each function becomes when what it calls is written out in its place: 19 functions of two lines can become
//! half a million.

use std::collections::HashMap;

use super::{Body, Call, Code, MAX_INLINED};

/// A body's place, and what is wrong with it.
pub(super) type Fault = (usize, String);

const CIRCLE: &str = "it calls itself, or its calls cannot be told apart";

/// Adds up from the leaves; no recursion, and every call once.
pub(super) fn check(code: &Code) -> Result<(), Fault> {
    let graph = Graph::of(code)?;
    let mut sizes = vec![State::New; graph.0.len()];
    for start in 0..code.bodies.len() {
        // Each with the place of the first call that has not been looked at, and the body that it stands for.
        let mut path = vec![(start, 0, start)];
        while let Some((at, next, body)) = path.last_mut() {
            let (at, body) = (*at, *body);
            let Some(node) = graph.0.get(at).filter(|_| !matches!(sizes.get(at), Some(State::Known(_)))) else {
                path.pop();
                continue;
            };
            set(&mut sizes, at, State::Open);
            let calls = node.calls.get(*next..).unwrap_or_default();
            let known =
                calls.iter().take_while(|(target, _)| matches!(sizes.get(*target), Some(State::Known(_)))).count();
            *next += known;
            if let Some((target, _)) = calls.get(known) {
                if matches!(sizes.get(*target), Some(State::Open)) {
                    return Err((body, CIRCLE.to_owned()));
                }
                path.push((*target, 0, if *target < code.bodies.len() { *target } else { body }));
                continue;
            }
            let inside = node.calls.iter().map(|(target, count)| match sizes.get(*target) {
                Some(State::Known(size)) => size.saturating_mul(*count),
                _ => 0,
            });
            let size = match node.own {
                Some(own) => inside.fold(own, u64::saturating_add),
                None => inside.max().unwrap_or(0),
            };
            if size > MAX_INLINED {
                let why = format!("with all that it calls it has {size} tokens; at most {MAX_INLINED} are allowed");
                return Err((body, why));
            }
            set(&mut sizes, at, State::Known(size));
            path.pop();
        }
    }
    Ok(())
}

/// Bodies, at their own places, and behind them the names of methods that are called without a class: an archive can have
/// as many calls of a name as methods of it.
struct Graph(Vec<Node>);

struct Node {
    /// Its own tokens; a name has none, and is as large as its largest method.
    own: Option<u64>,
    calls: Vec<(usize, u64)>,
}

impl Graph {
    fn of(code: &Code) -> Result<Self, Fault> {
        let mut methods: HashMap<&str, Vec<usize>> = HashMap::new();
        for class in code.classes.values().filter(|class| !class.interface) {
            for (name, method) in &class.methods {
                methods.entry(name).or_default().push(*method);
            }
        }
        let class_of = |body: &Body| body.class.as_ref().and_then(|class| code.classes.get(class));
        let is_method = |body: &Body| class_of(body).is_some_and(|class| !class.interface);
        let body = |body: &Body| Node { own: Some(body.tokens.len() as u64), calls: Vec::new() };
        let mut nodes: Vec<Node> = code.bodies.iter().map(body).collect();
        let mut names: HashMap<&str, usize> = HashMap::new();
        // Methods that call a method of their own name.
        let mut namesakes: HashMap<&str, usize> = HashMap::new();
        for (at, body) in code.bodies.iter().enumerate() {
            let mut calls = Vec::with_capacity(body.calls.len());
            for (call, count) in &body.calls {
                let target = match call {
                    Call::One(target) => *target,
                    Call::Any(name) => {
                        let Some(targets) = methods.get(name.as_str()) else { continue };
                        let place = nodes.len();
                        let any = |targets: Vec<usize>| Node {
                            own: None,
                            calls: targets.into_iter().map(|target| (target, 1)).collect(),
                        };
                        if body.name == *name && is_method(body) {
                            // Not itself: TorchScript's compiler knows no recursion, but through an interface, which is not
                            // written out. Two of them could call each other.
                            if namesakes.insert(name, at).is_some() {
                                return Err((at, CIRCLE.to_owned()));
                            }
                            nodes.push(any(targets.iter().copied().filter(|target| *target != at).collect()));
                            place
                        } else {
                            *names.entry(name).or_insert_with(|| {
                                nodes.push(any(targets.clone()));
                                place
                            })
                        }
                    }
                };
                calls.push((target, *count));
            }
            if let Some(node) = nodes.get_mut(at) {
                node.calls = calls;
            }
        }
        Ok(Self(nodes))
    }
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
