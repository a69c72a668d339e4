//! Runs a property: one round of a fixed seed, so that the same tree gives the same answer every day; or rounds of drawn seeds for as long as
//! `ORDERBELL_FUZZ_SECONDS` says. A failure names its seed, and `ORDERBELL_FUZZ_SEED` runs that one again.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

/// The seed of the one round.
const FIXED_SEED: u64 = 1;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Fails with the smallest input of `strategy` for which `check` fails or panics. A round has so many cases.
pub(crate) fn hold<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: Debug,
{
    let until = setting("ORDERBELL_FUZZ_SECONDS").map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let drawn = || SystemTime::UNIX_EPOCH.elapsed().map_or(FIXED_SEED, |since| since.as_micros() as u64);
    let first = setting("ORDERBELL_FUZZ_SEED").or_else(|| until.map(|_| drawn())).unwrap_or(FIXED_SEED);
    for seed in first.. {
        let config = Config { cases, rng_seed: RngSeed::Fixed(seed), failure_persistence: None, ..Config::default() };
        if let Err(error) = TestRunner::new(config).run(strategy, &check) {
            panic!("{error}\nORDERBELL_FUZZ_SEED={seed} runs this round again");
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
}
