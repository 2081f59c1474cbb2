//! Every target without libFuzzer: all seeds, all findings of the past, and 100 000 mutations of them.

#![allow(clippy::unwrap_used, reason = "test code: what cannot be is a failure")]

use std::fs;
use std::path::{Path, PathBuf};

use casemate_fuzz::mutate::{Dice, mutate};
use casemate_fuzz::{TARGETS, seeds};

const MUTATIONS: u32 = 100_000;
/// Longest input; the longest seeds are well below it.
const MOST: usize = 2048;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// The committed files of a target: its seeds, and what once broke it.
fn committed(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder().join(target)).unwrap_or_else(|e| panic!("no seeds for {target}: {e}"));
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

#[test]
fn the_seeds_are_those_that_the_encoders_make() {
    if std::env::var_os("CASEMATE_WRITE_SEEDS").is_some() {
        for seed in seeds::all() {
            fs::create_dir_all(folder().join(seed.target)).unwrap();
            fs::write(folder().join(seed.target).join(&seed.name), &seed.bytes).unwrap();
        }
    }
    for seed in seeds::all() {
        let found = fs::read(folder().join(seed.target).join(&seed.name)).unwrap_or_default();
        let hint = "run this test with CASEMATE_WRITE_SEEDS=1";
        assert!(found == seed.bytes, "seeds/{}/{} is not what the encoder makes; {hint}", seed.target, seed.name);
    }
}

#[test]
fn every_target_has_a_seed_and_a_driver() {
    let drivers = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/fuzz_targets");
    assert_eq!(fs::read_dir(&drivers).unwrap().count(), TARGETS.len());
    for (name, _) in TARGETS {
        assert!(drivers.join(name).with_extension("rs").is_file(), "{name} has no driver");
        assert!(seeds::all().iter().any(|seed| seed.target == name), "{name} has no seed");
    }
}

/// A target that nothing could fail would pass everything else here.
#[test]
fn the_mutations_reach_beyond_the_first_check() {
    let seed = seeds::of("frame").concat();
    let (mut dice, mut changed) = (Dice::new(1), 0);
    for _ in 0..100 {
        let mut bytes = seed.clone();
        mutate(&mut bytes, &seed, &mut dice, MOST);
        changed += u32::from(bytes != seed);
    }
    assert!(changed > 90, "{changed} of 100 were changed");
}

fn replay(name: &str) {
    let (_, target) = TARGETS.iter().find(|(found, _)| *found == name).unwrap();
    let seeds = committed(name);
    for seed in &seeds {
        target(seed);
    }
    let mut dice = Dice::new(u64::from(MUTATIONS));
    for round in 0..MUTATIONS {
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        let other = &seeds[dice.below(seeds.len())];
        mutate(&mut bytes, other, &mut dice, MOST);
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{name}, round {round}, on {}", bytes.escape_ascii());
    }
}

macro_rules! replays {
    ($($name:ident)+) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })+

        #[test]
        fn every_target_is_replayed() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),+]);
        }
    };
}

replays! {
    archive_gate channel config escape frame launch lifecycle manifest names numbers oip_binary oip_json sanitise work
}
