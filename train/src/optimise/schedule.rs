//! The learning rate over the steps of a run.
//!
//! A pure function of the step, so that a run that is taken up again needs to keep nothing of it.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use super::{OptimiseError, check_setting};

/// How the rate falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Not at all.
    Constant,
    /// Multiplied by `gamma` at each milestone, as the published networks are trained.
    #[default]
    MultiStep,
    /// Along half a cosine to `floor` (Loshchilov and Hutter 2017, without restarts).
    Cosine,
}

/// Settings of [`Schedule`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleConfig {
    /// How the rate falls.
    pub kind: ScheduleKind,
    /// Epochs from the run's start at which the rate is multiplied by `gamma`; parts of epochs are possible.
    pub milestones: Vec<f64>,
    /// The factor at a milestone, above 0.
    pub gamma: f64,
    /// What a cosine falls to, as a share of the rate.
    pub floor: f64,
    /// Epochs at the run's beginning over which the rate rises evenly from 0.
    pub warm_up_epochs: f64,
}

impl Default for ScheduleConfig {
    /// As AdaFace's scripts for IR-50 and IR-101 do in 26 epochs.
    fn default() -> Self {
        Self {
            kind: ScheduleKind::MultiStep,
            milestones: vec![12.0, 20.0, 24.0],
            gamma: 0.1,
            floor: 0.0,
            warm_up_epochs: 0.0,
        }
    }
}

/// The rate of each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    rate: f64,
    kind: ScheduleKind,
    /// In steps, rising.
    milestones: Vec<u64>,
    gamma: f64,
    floor: f64,
    warm_up: u64,
    steps: u64,
}

impl Schedule {
    /// For a run of `steps` with a highest rate.
    ///
    /// # Errors
    /// [`OptimiseError::BadSetting`].
    pub fn new(rate: f64, config: &ScheduleConfig, steps_per_epoch: f64, steps: u64) -> Result<Self, OptimiseError> {
        check_setting("optimiser.rate", rate, "above 0", rate > 0.0)?;
        check_setting("schedule.gamma", config.gamma, "above 0", config.gamma > 0.0)?;
        check_setting("schedule.floor", config.floor, "from 0 to 1", (0.0..=1.0).contains(&config.floor))?;
        check_setting("schedule.warm_up_epochs", config.warm_up_epochs, "0 or above", config.warm_up_epochs >= 0.0)?;
        for epoch in &config.milestones {
            check_setting("a value of schedule.milestones", *epoch, "0 or above", *epoch >= 0.0)?;
        }
        let in_steps = |epochs: f64| (epochs * steps_per_epoch).round() as u64;
        let mut milestones: Vec<u64> = config.milestones.iter().map(|epoch| in_steps(*epoch)).collect();
        milestones.sort_unstable();
        let warm_up = in_steps(config.warm_up_epochs);
        Ok(Self { rate, kind: config.kind, milestones, gamma: config.gamma, floor: config.floor, warm_up, steps })
    }

    /// The rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return self.rate * (step + 1) as f64 / self.warm_up as f64;
        }
        match self.kind {
            ScheduleKind::Constant => self.rate,
            ScheduleKind::MultiStep => {
                let passed = self.milestones.iter().filter(|milestone| step >= **milestone).count();
                self.rate * self.gamma.powi(passed as i32)
            }
            ScheduleKind::Cosine => {
                let whole = self.steps.saturating_sub(self.warm_up).max(1) as f64;
                let share = ((step - self.warm_up) as f64 / whole).min(1.0);
                self.rate * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + (PI * share).cos()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(config: ScheduleConfig) -> Schedule {
        Schedule::new(0.1, &config, 10.0, 260).unwrap()
    }

    fn assert_close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-15, "{found} {expected}");
    }

    #[test]
    fn the_published_milestones_divide_by_ten() {
        let schedule = schedule(ScheduleConfig::default());
        for (step, rate) in [(0, 0.1), (119, 0.1), (120, 0.01), (199, 0.01), (200, 1e-3), (240, 1e-4), (10_000, 1e-4)] {
            assert_close(schedule.rate(step), rate);
        }
    }

    #[test]
    fn warm_up_rises_to_the_rate_and_a_cosine_falls_to_the_floor() {
        let config =
            ScheduleConfig { kind: ScheduleKind::Cosine, floor: 0.1, warm_up_epochs: 2.0, ..Default::default() };
        let schedule = schedule(config);
        assert_close(schedule.rate(0), 0.1 / 20.0);
        assert_close(schedule.rate(19), 0.1);
        assert_close(schedule.rate(20), 0.1);
        assert_close(schedule.rate(140), 0.1 * 0.55);
        assert_close(schedule.rate(260), 0.01);
        assert_close(schedule.rate(1000), 0.01);
        assert!((20..259).all(|step| schedule.rate(step + 1) < schedule.rate(step)));
    }

    #[test]
    fn settings_are_checked() {
        let with = |change: fn(&mut ScheduleConfig)| {
            let mut config = ScheduleConfig::default();
            change(&mut config);
            Schedule::new(0.1, &config, 10.0, 100)
        };
        assert!(with(|config| config.gamma = 0.0).is_err());
        assert!(with(|config| config.floor = 1.1).is_err());
        assert!(with(|config| config.warm_up_epochs = -1.0).is_err());
        assert!(with(|config| config.milestones = vec![f64::NAN]).is_err());
        assert!(Schedule::new(0.0, &ScheduleConfig::default(), 10.0, 100).is_err());
    }
}
