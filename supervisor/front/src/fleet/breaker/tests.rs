use super::*;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const RULES: Rules = Rules { deaths: 3, window: s(60), rest: s(1), longest: s(4) };

/// A breaker that was opened at `now`.
fn opened(now: Instant) -> Breaker {
    let mut breaker = Breaker::new(RULES);
    assert_eq!((breaker.died(now), breaker.died(now)), (None, None));
    assert_eq!(breaker.died(now), Some(Opened { rest: s(1), deaths: 3 }));
    breaker
}

#[test]
fn a_row_of_deaths_opens_it_and_the_rest_ends_by_itself() {
    let now = Instant::now();
    let breaker = opened(now);
    assert_eq!(breaker.stand(now), Stand::Open(s(1)));
    assert_eq!(breaker.stand(now + s(1)), Stand::HalfOpen);
    assert_eq!(breaker.stand(now + s(60)), Stand::HalfOpen);
    assert_eq!(breaker.stand(now + s(61)), Stand::Closed);
}

#[test]
fn deaths_that_lie_far_apart_open_nothing() {
    let (now, mut breaker) = (Instant::now(), Breaker::new(RULES));
    for minute in 0..100 {
        assert_eq!(breaker.died(now + s(61 * minute)), None);
    }
    assert_eq!(breaker.deaths(), 1);
}

#[test]
fn half_open_a_death_opens_it_for_longer_and_an_answer_closes_it() {
    let start = Instant::now();
    let mut breaker = opened(start);
    let mut now = start;
    for rest in [2, 4, 4, 4] {
        while breaker.stand(now) != Stand::HalfOpen {
            now += s(1);
        }
        assert_eq!(breaker.died(now), Some(Opened { rest: s(rest), deaths: 1 }));
    }
    now += s(4);
    breaker.answered(now);
    assert_eq!(breaker.stand(now), Stand::Closed);
    assert_eq!(breaker.died(now), None, "closed, it takes a row again");
    // A quiet window makes the next rest a first one.
    let now = now + s(61);
    assert_eq!([(); 3].map(|()| breaker.died(now).map(|o| o.rest)), [None, None, Some(s(1))]);
}

#[test]
fn answers_in_between_keep_it_closed_but_not_for_ever() {
    let (now, mut breaker) = (Instant::now(), Breaker::new(RULES));
    for _ in 1..RULES.deaths * INTERLEAVED {
        assert_eq!(breaker.died(now), None);
        breaker.answered(now);
    }
    assert_eq!(breaker.died(now), Some(Opened { rest: s(1), deaths: RULES.deaths * INTERLEAVED }));
    // Slowly, it never opens.
    let mut breaker = Breaker::new(RULES);
    for at in 0..1000 {
        assert_eq!(breaker.died(now + s(at * 6)), None);
        breaker.answered(now + s(at * 6));
    }
}

#[test]
fn what_comes_while_it_rests_changes_nothing() {
    let now = Instant::now();
    let mut breaker = opened(now);
    breaker.answered(now);
    assert_eq!(breaker.died(now), None);
    assert_eq!(breaker.stand(now), Stand::Open(s(1)));
}

#[test]
fn no_rest_is_longer_than_the_longest() {
    let (mut now, mut breaker) = (Instant::now(), Breaker::new(Rules { longest: s(10), ..RULES }));
    for _ in 0..500 {
        if let Some(Opened { rest, .. }) = breaker.died(now) {
            assert!((s(1)..=s(10)).contains(&rest));
            now += rest;
        }
    }
}
