//! When a SYN is sent again, and when its sender gives up.
//!
//! The first repetition comes a second after the SYN. The time to the next one doubles after
//! each, but for the first `tcp_syn_linear_timeouts` (4 since Linux 6.5, before: none):
//!
//! ```text
//! retries 6, linear 0   SYNs at 0 1 3 7 15 31 63                ETIMEDOUT at 127 s
//! retries 6, linear 4   SYNs at 0 1 2 3 4 5 7 11 19 35 67       ETIMEDOUT at 131 s
//! ```
//!
//! Two limits end it, whichever is met first when the timer fires: the number of repetitions
//! (retries + linear), and the time that `retries` alone would take with doubling from the
//! start (`tcp_model_timeout`), counted from connect(). The second one matters only for few
//! retries: with 2 and linear 4, Linux 6.18 gives up at 7 s after 6 SYNs (measured).
//!
//! Times are exact. A live kernel's timer wheel rounds long timers up, by 2 % at most.
//!
//! Source: `tcp_retransmit_timer`, `tcp_write_timeout`, `tcp_model_timeout` (tcp_timer.c).

use clashtrack_engine::time::{Nanos, SECOND};

/// `TCP_TIMEOUT_INIT`: the time to the first repetition.
const FIRST_TIMEOUT: Nanos = SECOND;
/// `TCP_RTO_MAX`: the longest time between two.
const LONGEST_TIMEOUT: Nanos = 120 * SECOND;
/// Doublings of the first timeout that stay below the longest (`ilog2(RTO_MAX / RTO)`).
const DOUBLINGS: u32 = (LONGEST_TIMEOUT / FIRST_TIMEOUT).ilog2();

/// The two sysctls that shape the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynRetries {
    /// `net.ipv4.tcp_syn_retries`: 1 to 127.
    pub retries: u8,
    /// `net.ipv4.tcp_syn_linear_timeouts`: 0 to 127. Kernels before 6.5 have none of it: 0.
    pub linear: u8,
}

impl SynRetries {
    /// Repetitions at most.
    fn repetitions_max(self) -> u32 {
        u32::from(self.retries) + u32::from(self.linear)
    }

    /// The time that `retries` repetitions take when each wait is twice the one before.
    fn model_time(self) -> Nanos {
        let retries = u32::from(self.retries);
        let doubled = retries.min(DOUBLINGS);
        ((2 << doubled) - 1) * FIRST_TIMEOUT + u64::from(retries - doubled) * LONGEST_TIMEOUT
    }
}

/// What the timer says when it fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Send the SYN again, and set the timer anew.
    Retransmit,
    /// ETIMEDOUT.
    GiveUp,
}

/// The retransmission timer of one connection in SYN_SENT.
#[derive(Clone, Copy, Debug)]
pub struct SynTimer {
    limits: SynRetries,
    repetitions: u32,
    timeout: Nanos,
}

impl SynTimer {
    /// The timer of a SYN that was just sent for the first time.
    #[must_use]
    pub fn new(limits: SynRetries) -> SynTimer {
        SynTimer {
            limits,
            repetitions: 0,
            timeout: FIRST_TIMEOUT,
        }
    }

    /// How long from the last SYN until the timer fires.
    #[must_use]
    pub fn timeout(&self) -> Nanos {
        self.timeout
    }

    /// The timer fires, `elapsed` after connect().
    pub fn expire(&mut self, elapsed: Nanos) -> Expiry {
        let out_of_time = self.repetitions > 0 && elapsed >= self.limits.model_time();
        if self.repetitions >= self.limits.repetitions_max() || out_of_time {
            return Expiry::GiveUp;
        }
        self.repetitions += 1;
        if self.repetitions > u32::from(self.limits.linear) {
            self.timeout = (2 * self.timeout).min(LONGEST_TIMEOUT);
        }
        Expiry::Retransmit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The times of all SYNs that stay unanswered, and of giving up, in whole seconds.
    fn schedule(retries: u8, linear: u8) -> (Vec<u64>, u64) {
        let mut timer = SynTimer::new(SynRetries { retries, linear });
        let (mut now, mut sent) = (0, vec![0]);
        loop {
            now += timer.timeout();
            match timer.expire(now) {
                Expiry::Retransmit => sent.push(now / SECOND),
                Expiry::GiveUp => return (sent, now / SECOND),
            }
        }
    }

    #[test]
    fn a_kernel_without_linear_timeouts_sends_seven_syns_in_127_seconds() {
        assert_eq!(schedule(6, 0), (vec![0, 1, 3, 7, 15, 31, 63], 127));
    }

    #[test]
    fn linux_6_18_sends_eleven_syns_in_131_seconds() {
        assert_eq!(
            schedule(6, 4),
            (vec![0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 67], 131)
        );
    }

    #[test]
    fn few_retries_end_by_time_as_measured_on_linux_6_18() {
        assert_eq!(schedule(1, 0), (vec![0, 1], 3));
        assert_eq!(schedule(1, 4), (vec![0, 1, 2], 3));
        assert_eq!(schedule(1, 10), (vec![0, 1, 2], 3));
        assert_eq!(schedule(2, 4), (vec![0, 1, 2, 3, 4, 5], 7));
        assert_eq!(schedule(2, 6), (vec![0, 1, 2, 3, 4, 5, 6], 7));
        assert_eq!(schedule(3, 4), (vec![0, 1, 2, 3, 4, 5, 7, 11], 19));
    }

    #[test]
    fn no_wait_is_longer_than_two_minutes() {
        let (sent, failed_at) = schedule(9, 0);
        assert_eq!(sent, [0, 1, 3, 7, 15, 31, 63, 127, 247, 367]);
        assert_eq!(failed_at, 487);
    }

    proptest! {
        #[test]
        fn retries_and_linear_timeouts_add_up(retries in 1u8..=127, linear in 0u8..=127) {
            let (sent, failed_at) = schedule(retries, linear);
            let all = 1 + usize::from(retries) + usize::from(linear);
            prop_assert!(sent.len() <= all);
            prop_assert!(sent.is_sorted());
            let model = SynRetries { retries, linear }.model_time() / SECOND;
            if sent.len() < all {
                prop_assert!(failed_at >= model, "only the time may cut it short");
            }
            prop_assert!(*sent.last().unwrap() < model, "no SYN is sent after the time is up");
        }

        #[test]
        fn the_usual_settings_send_one_and_retries_and_linear_syns(retries in 3u8..=127, linear in 0u8..=4) {
            prop_assert_eq!(schedule(retries, linear).0.len(), 1 + usize::from(retries) + usize::from(linear));
        }
    }
}
