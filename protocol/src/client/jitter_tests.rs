//! Clients that lose their connections together do not come back together.

use super::*;

const CLIENTS: u64 = 1_000;
/// Of a thousand clients a hundred belong in a tenth of the interval. More than half as many again would be no jitter; with independent draws
/// that happens once in ten million.
const MAX_IN_TENTH: usize = 150;

fn client(seed: u64) -> Client {
    // With a position it opens its socket at once, without the open orders first.
    let state = PersistedState { position: "1.1.0000".parse().ok(), ..PersistedState::default() };
    Client::new("token", "till", state, Timings::default(), seed, Duration::ZERO)
}

/// The most waits that lie in one tenth of `from..from + length`; all must lie in it.
fn fullest_tenth(waits: impl Iterator<Item = Duration>, from: Duration, length: Duration) -> usize {
    let mut tenths = [0; 10];
    for wait in waits {
        assert!((from..from + length).contains(&wait), "{wait:?} is not within {length:?} from {from:?}");
        tenths[usize::try_from((wait - from).as_millis() * 10 / length.as_millis()).unwrap()] += 1;
    }
    tenths.into_iter().max().unwrap()
}

/// The interval of the nth wait: it doubles, and jitter takes the upper half.
fn half_of(failures: u32) -> Duration {
    let timings = Timings::default();
    (timings.retry_min * 2_u32.pow(failures - 1)).min(timings.retry_max) / 2
}

#[test]
fn the_waits_of_many_clients_fill_the_interval_after_each_failure() {
    // Seeds as people choose them: a number for each till, or a hash.
    let mixed = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    for seed_of in [|n| n, |n| 7_000_000 + 10 * n, mixed as fn(u64) -> u64] {
        let mut clients: Vec<Client> = (0..CLIENTS).map(|n| client(seed_of(n))).collect();
        for failures in 1..=12 {
            let half = half_of(failures);
            let waits = clients.iter_mut().map(|client| client.back_off(failures));
            let most = fullest_tenth(waits, half, half);
            assert!(most <= MAX_IN_TENTH, "{most} of {CLIENTS} in one tenth after failure {failures}");
        }
    }
}

#[test]
fn the_waits_of_one_client_differ_from_time_to_time() {
    let mut client = client(1);
    let half = half_of(20);
    let most = fullest_tenth((0..CLIENTS).map(|_| client.back_off(20)), half, half);
    assert!(most <= MAX_IN_TENTH, "{most}");
}

/// Through the machine: the wait that the application gets is that wait.
#[test]
fn sockets_that_fail_together_are_opened_again_at_different_times() {
    let half = half_of(1);
    let reopened = (0..CLIENTS).map(|seed| {
        let (mut client, mut out) = (client(seed), Vec::new());
        client.input(Input::Time, Duration::ZERO, &mut out);
        client.input(Input::Closed(None), Duration::ZERO, &mut out);
        let Socket::Down { retry_at, .. } = client.socket else { panic!("{out:?}") };
        retry_at
    });
    let most = fullest_tenth(reopened, half, half);
    assert!(most <= MAX_IN_TENTH, "{most}");
}
