//! A contest: all tables of a case and the machine's limit, who take turns.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clashtrack_engine::table::FlowTable;
use clashtrack_engine::table::key::KeyV4;

use super::case::{Case, Kind};
use super::churn::ChurnContender;
use super::clash_port::ClashPortContender;
use super::connect::ConnectContender;
use super::elephant::ElephantContender;
use super::exhaust::ExhaustContender;
use super::expire::ExpireContender;
use super::lookup::LookupContender;
use super::measure::{Contender, Entrant, Measurement, Sample, is_raised};
use super::mixed::MixedContender;
use super::new_flows::NewFlowsContender;
use super::open_loop::Conditions;
use super::packets::PacketsContender;
use super::race::TableRace;
use super::stall::StallContender;
use super::syn_flood::SynFloodContender;
use super::traffic::Traffic;
use super::worker::Cores;
use crate::limit;
use crate::load::Ticks;
use crate::peer::TableVisitor;

/// One case on all tables, and the limit beside them.
pub(super) struct Contest {
    pub(super) entrants: Vec<(Box<dyn Contender>, Measurement)>,
    pub(super) limit: Option<(Box<dyn Contender>, Vec<Sample>)>,
    /// The sample that is being taken of each table, the limit's last.
    sums: Vec<Sample>,
}

/// Makes a contender of the table type it visits.
pub(super) struct Enter<'a>(pub(super) &'a Case, pub(super) &'a Arc<Traffic>);

impl TableVisitor for Enter<'_> {
    type Output = Box<dyn Contender>;

    fn visit<T: FlowTable<KeyV4> + 'static>(self) -> Box<dyn Contender>
    where
        T::Worker: 'static,
    {
        let Enter(case, traffic) = self;
        let traffic = Arc::clone(traffic);
        match case.workload.kind {
            Kind::Clash(clash) => Box::new(TableRace::<T>::new(case.race(clash))),
            Kind::LookupHit | Kind::LookupMiss | Kind::Zipf | Kind::Skew | Kind::Zones => {
                Box::new(LookupContender::<T>::new(case, traffic))
            }
            Kind::Mixed => Box::new(MixedContender::<T>::new(case, traffic)),
            Kind::Elephant => Box::new(ElephantContender::<T>::new(case, &traffic)),
            Kind::ClashPort => Box::new(ClashPortContender::<T>::new(case, &traffic)),
            Kind::Exhaust => Box::new(ExhaustContender::<T>::new(case)),
            Kind::Packets => Box::new(PacketsContender::<T>::new(case, &traffic)),
            Kind::NewFlows => Box::new(NewFlowsContender::<T>::new(case, &traffic)),
            Kind::SynFlood => Box::new(SynFloodContender::<T>::new(case, traffic)),
            Kind::Connect | Kind::HashFlood => Box::new(ConnectContender::<T>::new(case, traffic)),
            Kind::Churn => Box::new(ChurnContender::<T>::new(case, traffic)),
            Kind::Expire => Box::new(ExpireContender::<T>::new(case, traffic)),
            Kind::Stall => Box::new(StallContender::<T>::new(case, traffic)),
        }
    }
}

/// One sample of each contest's tables and limit, all their rounds interleaved.
pub(super) fn sample(
    contests: &mut [Contest],
    duration: Duration,
    cores: &Cores,
    interrupted: &AtomicBool,
) {
    let begun = Ticks::now();
    loop {
        let turns = contests
            .iter_mut()
            .map(|contest| contest.turn(duration, cores, interrupted));
        if !turns.fold(false, |any, turn| any | turn) {
            break;
        }
    }
    let disturbed = Ticks::disturbed_since(begun);
    contests
        .iter_mut()
        .for_each(|contest| contest.keep(disturbed));
}

impl Contest {
    pub(super) fn new(tables: &[Entrant], case: &Case) -> Contest {
        let traffic = Arc::new(Traffic::of(case));
        let entrants = tables
            .iter()
            .filter_map(|table| {
                let contender = (table.enter)(table.name, Enter(case, &traffic))?;
                Some((contender, Measurement::new(*case, table.name)))
            })
            .collect();
        Contest {
            entrants,
            limit: limit::contender(case, &traffic).map(|contender| (contender, Vec::new())),
            sums: Vec::new(),
        }
    }

    /// Of its tables.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entrants
            .iter()
            .map(|(_, measurement)| measurement.table)
    }

    pub(super) fn warm_up(&mut self, cores: &Cores, interrupted: &AtomicBool) {
        for (contender, measurement) in &mut self.entrants {
            // The rest of it is not the measurement's, but how the table lies in memory is.
            measurement.hit_lines = contender.round(cores, interrupted).hit_lines;
            contender.reset();
        }
        if let Some((limit, _)) = &mut self.limit {
            limit.round(cores, interrupted);
            limit.reset();
        }
    }

    /// A round of each contender that has not had its time; false when there was none.
    fn turn(&mut self, duration: Duration, cores: &Cores, interrupted: &AtomicBool) -> bool {
        let mut any = false;
        let blanks = self.entrants.len() + usize::from(self.limit.is_some());
        self.sums.resize(blanks, Sample::NOTHING);
        let mut sums = self.sums.iter_mut();
        // Each one has at least one round, however short the time.
        let wants = |sum: &Sample| {
            (sum.elapsed < duration || sum.elapsed.is_zero()) && !is_raised(interrupted)
        };
        for ((contender, measurement), sum) in self.entrants.iter_mut().zip(&mut sums) {
            if wants(sum) {
                let round = contender.round(cores, interrupted);
                sum.count(&round);
                measurement.add(round);
                any = true;
            }
        }
        if let (Some((limit, _)), Some(sum)) = (&mut self.limit, sums.next())
            && wants(sum)
        {
            sum.count(&limit.round(cores, interrupted));
            any = true;
        }
        any
    }

    /// The sample is complete.
    fn keep(&mut self, disturbed: bool) {
        let tables = self.entrants.iter_mut().map(|(_, m)| &mut m.samples);
        let limit = self.limit.as_mut().map(|(_, samples)| samples);
        for (samples, sum) in tables.chain(limit).zip(self.sums.drain(..)) {
            if sum.operations > 0 && !sum.elapsed.is_zero() {
                samples.push(Sample { disturbed, ..sum });
            }
        }
    }

    /// A sample of the limit alone; `None` where there is no limit, or it was interrupted.
    pub(super) fn limit_sample(&mut self, conditions: Conditions<'_>) -> Option<Sample> {
        let Conditions {
            case,
            cores,
            interrupted,
        } = conditions;
        let (limit, _) = self.limit.as_mut()?;
        let mut sum = Sample::NOTHING;
        while sum.elapsed < case.duration && !is_raised(interrupted) {
            let round = limit.round(cores, interrupted);
            // Clocks are coarse on some systems: a round that took no time at all must not go on for ever.
            sum.elapsed += round.elapsed.max(Duration::from_micros(1));
            sum.operations += round.operations;
        }
        (sum.operations > 0).then_some(sum)
    }

    pub(super) fn finish(self) -> impl Iterator<Item = Measurement> {
        let limit = self.limit.map(|(_, samples)| samples).unwrap_or_default();
        self.entrants
            .into_iter()
            .map(move |(contender, measurement)| Measurement {
                per_cpu: contender.per_cpu(),
                limit: limit.clone(),
                ..measurement
            })
            .filter(|measurement| !measurement.samples.is_empty())
    }
}
