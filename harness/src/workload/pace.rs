//! How operations are offered to a worker: as fast as it takes them (closed loop), or at a rate (open loop).
//!
//! # Open loop
//! When a batch is due is known before anything runs: it is when its first operation is, at so many a second from the
//! beginning of the sample on. A worker waits for that moment, spinning on the clock (who sleeps is woken late), or begins at once
//! if it has passed. No batch is skipped and none is put off because the one before took long. An operation's latency is the time from the moment
//! at which its batch *was due* to the moment at which the batch was done. So whoever was kept waiting counts, not
//! only the one that was kept waiting first: the other way leaves out the very operations that a stall delays (*coordinated
//! omission*).
//!
//! ```text
//! due     |  1  |  2  |  3  |  4  |  5
//! worked  |1|   |2 (stalls)      |3|4|5|
//! latency |-|   |----------------|
//!                     |------------|          3 was due here
//!                           |--------|        4
//! ```
//! # The schedule's clock
//! A sample may have several rounds, between which tables are checked with the clock stopped. The schedule's clock stands
//! meanwhile: it runs from a round's first batch to its last one's end. A worker that is behind when a round ends is as far behind when
//! the next one begins.
//!
//! # More than can be done
//! At a rate that cannot be kept a worker falls ever further behind. A sample that is not done after [`GIVEN_UP_AFTER`] times its
//! time is given up; what was due and has not begun then is counted with the time that it has waited so far, which flatters it, and the
//! rate is called saturated.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::worker::Crew;

/// A sample is given up after so many times the time that it should take.
pub const GIVEN_UP_AFTER: u32 = 2;

/// Bounds of latencies: 1 ns to 100 s, three digits.
const LONGEST: u64 = 100_000_000_000;
/// What was never begun is entered in the histogram in so many steps at most.
const STEPS_GIVEN_UP: u64 = 10_000;

/// An empty histogram of latencies in nanoseconds.
///
/// # Panics
/// Never: the bounds are in order.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds are in order")
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What one worker is offered in a sample.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Offer {
    /// Operations a second.
    pub per_s: f64,
    /// When the first one is due.
    pub first: Duration,
    /// What would be due from here on is not offered any more.
    pub whole: Duration,
}

impl Offer {
    /// The part of worker `number` of `workers` in `rate` operations a second. Workers' batches of `batch` take turns, as they
    /// would coming from one wire.
    #[must_use]
    pub fn of_worker(
        rate: f64,
        number: usize,
        workers: usize,
        batch: usize,
        whole: Duration,
    ) -> Offer {
        let ahead = Duration::try_from_secs_f64((number * batch) as f64 / rate);
        Offer {
            per_s: rate / workers as f64,
            first: ahead.map_or(whole, |ahead| ahead.min(whole)),
            whole,
        }
    }

    /// When operation `number` is due, from 0.
    fn due(&self, number: u64) -> Duration {
        let after = Duration::try_from_secs_f64(number as f64 / self.per_s);
        after.map_or(Duration::MAX, |after| self.first.saturating_add(after))
    }

    /// Operations that are due in the whole time.
    fn operations(&self) -> u64 {
        ((self.whole - self.first).as_secs_f64() * self.per_s).ceil() as u64
    }
}

/// Which operations are due when, and how late those were that are done. Knows no clock: it is told the time.
#[derive(Clone, Debug)]
pub struct Schedule {
    offer: Offer,
    begun: u64,
    batches: u64,
    /// When the last batch was done.
    reached: Duration,
    latencies: Histogram<u64>,
}

impl Schedule {
    /// Nothing done yet.
    #[must_use]
    pub fn new(offer: Offer) -> Schedule {
        Schedule {
            offer,
            begun: 0,
            batches: 0,
            reached: Duration::ZERO,
            latencies: histogram(),
        }
    }

    /// When the next batch is due.
    #[must_use]
    pub fn due(&self) -> Duration {
        self.offer.due(self.begun)
    }

    /// No batch is due any more, or it is too late for one.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.due() >= self.offer.whole || self.reached >= self.offer.whole * GIVEN_UP_AFTER
    }

    /// Waits until the next batch is due; false if there is none, or `stopped`.
    pub fn wait(&self, now: impl Fn() -> Duration, stopped: impl Fn() -> bool) -> bool {
        if self.is_over() {
            return false;
        }
        let due = self.due();
        while !stopped() {
            if now() >= due {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// A batch of so many operations is done, at this time.
    pub fn done(&mut self, operations: usize, now: Duration) {
        let latency = nanoseconds(now.saturating_sub(self.due()));
        self.latencies
            .saturating_record_n(latency.max(1), operations as u64);
        self.begun += operations as u64;
        self.batches += 1;
        self.reached = now;
    }

    /// The sample is over: what the worker saw, those operations included that were due and never begun.
    #[must_use]
    pub fn finish(mut self) -> Offered {
        let given_up = self.offer.operations().saturating_sub(self.begun);
        let step = given_up.div_ceil(STEPS_GIVEN_UP).max(1);
        let mut left = given_up;
        while left > 0 && !self.is_over_by_plan() {
            let some = step.min(left);
            let waited = nanoseconds(self.reached.saturating_sub(self.due()));
            self.latencies.saturating_record_n(waited.max(1), some);
            self.begun += some;
            left -= some;
        }
        Offered {
            given_up,
            batches: self.batches,
            time: self.reached.max(self.offer.whole),
            latencies: self.latencies,
        }
    }

    /// Nothing is due any more, however late it is.
    fn is_over_by_plan(&self) -> bool {
        self.due() >= self.offer.whole
    }
}

/// What came of an offer.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Latencies of all operations that were due, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Batches that were done.
    pub batches: u64,
    /// Operations that were due and never begun.
    pub given_up: u64,
    /// Time on the schedule's clock, until the last batch was done: that of the sample at least.
    pub time: Duration,
}

impl Offered {
    /// Nothing offered.
    #[must_use]
    pub fn nothing() -> Offered {
        Offered {
            latencies: histogram(),
            batches: 0,
            given_up: 0,
            time: Duration::ZERO,
        }
    }

    /// With another worker's, or another sample's; the time is the longer one.
    pub fn add(&mut self, other: &Offered) {
        self.latencies += &other.latencies;
        self.batches += other.batches;
        self.given_up += other.given_up;
        self.time = self.time.max(other.time);
    }
}

/// A worker's pace: none (closed loop), or a schedule.
#[derive(Debug, Default)]
pub struct Pace(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    schedule: Schedule,
    /// The moment at which the schedule's clock would have been 0; `None` while it stands.
    zero: Option<Instant>,
}

impl Pace {
    /// From now on at a rate.
    pub fn begin(&mut self, offer: Offer) {
        self.0 = Some(Box::new(Open {
            schedule: Schedule::new(offer),
            zero: None,
        }));
    }

    /// The schedule's clock stands until the next batch.
    pub fn pause(&mut self) {
        if let Some(open) = &mut self.0 {
            open.zero = None;
        }
    }

    /// From now on as fast as can be; what came of the offer until here.
    pub fn end(&mut self) -> Option<Offered> {
        self.0.take().map(|open| open.schedule.finish())
    }

    /// Nothing is due any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(|open| open.schedule.is_over())
    }

    /// There is no schedule.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_none()
    }

    /// Waits for the next batch to be due; false if the worker should end.
    pub fn next(&mut self, crew: &Crew<'_>) -> bool {
        match &mut self.0 {
            None => !crew.should_stop(),
            Some(open) => {
                let reached = open.schedule.reached;
                let zero = *open.zero.get_or_insert_with(|| Instant::now() - reached);
                let now = || zero.elapsed();
                open.schedule.wait(now, || crew.should_stop())
            }
        }
    }

    /// The batch is done: so many operations.
    pub fn done(&mut self, operations: usize) {
        if let Some(open) = &mut self.0
            && let Some(zero) = open.zero
        {
            open.schedule.done(operations, zero.elapsed());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const MS: Duration = Duration::from_millis(1);

    /// A clock that goes on by a microsecond a look, and by what its server takes.
    #[derive(Default)]
    struct Fake(Cell<Duration>);

    impl Fake {
        fn look(&self) -> Duration {
            self.0.set(self.0.get() + Duration::from_micros(1));
            self.0.get()
        }

        fn takes(&self, time: Duration) {
            self.0.set(self.0.get() + time);
        }
    }

    /// Goes through a schedule; batch `n` takes `cost(n)`.
    fn served(
        offer: Offer,
        batch: usize,
        cost: impl Fn(u64) -> Duration,
    ) -> (Offered, Vec<Duration>) {
        let (clock, mut schedule, mut begun) = (Fake::default(), Schedule::new(offer), Vec::new());
        while schedule.wait(|| clock.look(), || false) {
            begun.push(clock.0.get());
            clock.takes(cost(schedule.batches));
            schedule.done(batch, clock.0.get());
        }
        (schedule.finish(), begun)
    }

    fn offer(per_s: f64) -> Offer {
        Offer::of_worker(per_s, 0, 1, 1, 100 * MS)
    }

    #[test]
    fn batches_begin_when_they_are_due_and_not_before() {
        // 1000 a second in batches of 5: one each 5 ms.
        let (offered, begun) = served(offer(1000.0), 5, |_| MS);
        assert_eq!(
            (begun.len(), offered.batches, offered.given_up),
            (20, 20, 0)
        );
        for (number, begun) in (0..).zip(begun) {
            let late = begun - 5 * MS * number;
            assert!(late <= Duration::from_micros(2), "{number}: {late:?}");
        }
        assert_eq!(offered.latencies.len(), 100);
        assert!(offered.latencies.max() < 1_010_000);
        assert_eq!(offered.time, 100 * MS);
    }

    #[test]
    fn due_times_do_not_drift_with_batches_of_other_lengths() {
        let mut schedule = Schedule::new(offer(3000.0));
        for length in [3, 1, 2, 64, 5] {
            let before = schedule.due();
            schedule.done(length, before);
            let took = (schedule.due() - before).as_secs_f64();
            assert!((took - length as f64 / 3000.0).abs() < 1e-8, "{length}");
        }
        assert_eq!(schedule.due(), Duration::from_secs_f64(75.0 / 3000.0));
    }

    #[test]
    fn workers_take_turns_and_have_equal_parts_of_the_rate() {
        let of = |worker| Offer::of_worker(1000.0, worker, 2, 10, 100 * MS);
        assert_eq!((of(0).first, of(1).first), (Duration::ZERO, 10 * MS));
        assert_eq!((of(0).per_s, of(1).per_s), (500.0, 500.0));
        // So late that nothing is left to do.
        assert_eq!(Offer::of_worker(1e-9, 1, 2, 10, MS).operations(), 0);
    }

    /// Aim: a server that stalls once delays all who come meanwhile, and each of them is seen. Method: 1000 requests a
    /// second, 0.1 ms each, one of which takes 50 ms; beside it what a closed loop would have noted.
    #[test]
    fn a_stall_counts_for_everybody_who_had_to_wait_and_not_only_for_one() {
        let stalls = |number| if number == 20 { 50 * MS } else { MS / 10 };
        let (open, _) = served(offer(1000.0), 1, stalls);
        let slow = |histogram: &Histogram<u64>| histogram.count_between(5_000_000, u64::MAX);
        let mut closed = histogram();
        (0..100).for_each(|number| closed.record(nanoseconds(stalls(number))).unwrap());
        assert_eq!(open.latencies.len(), closed.len());
        assert_eq!(slow(&closed), 1);
        // 50 came during the stall; 0.9 ms are made good with each, so some more wait; the last few less than 5 ms.
        assert!(
            (45..=55).contains(&slow(&open.latencies)),
            "{}",
            slow(&open.latencies)
        );
        assert!(closed.value_at_quantile(0.9) < 200_000);
        assert!(open.latencies.value_at_quantile(0.9) > 30_000_000);
        assert_eq!(
            (open.batches, open.given_up),
            (100, 0),
            "nobody is left out"
        );
    }

    #[test]
    fn more_than_can_be_done_is_given_up_and_counted() {
        // 1000 a second, 4 ms each.
        let (offered, begun) = served(offer(1000.0), 1, |_| 4 * MS);
        assert_eq!(begun.len(), 50, "until twice the time is over");
        assert_eq!(offered.given_up, 50);
        assert_eq!(offered.latencies.len(), 100, "each that was due");
        assert!(offered.latencies.max() >= 145_000_000);
        assert!(offered.time >= 200 * MS);
    }

    #[test]
    fn who_is_behind_when_a_round_ends_is_as_far_behind_when_the_next_one_begins() {
        let mut pace = Pace::default();
        pace.begin(offer(1000.0));
        let open = pace.0.as_mut().unwrap();
        (0..10).for_each(|_| open.schedule.done(1, 30 * MS));
        pace.pause();
        let open = pace.0.as_mut().unwrap();
        assert!(open.zero.is_none());
        // 20 ms behind: due at once.
        assert_eq!(
            (open.schedule.due(), open.schedule.reached),
            (10 * MS, 30 * MS)
        );
        assert!(open.schedule.wait(|| open.schedule.reached, || false));
        assert!(!open.schedule.wait(|| Duration::ZERO, || true), "stopped");
    }

    #[test]
    fn without_a_schedule_nothing_is_noted() {
        let mut pace = Pace::default();
        pace.done(3);
        pace.pause();
        assert!(pace.is_closed() && !pace.is_over() && pace.end().is_none());
    }
}
