//! Figures of a run: latencies, and the slope of what is sampled.

use std::fmt;
use std::time::Duration;

/// How long answers took.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    /// All of another.
    pub fn extend(&mut self, other: Self) {
        self.micros.extend(other.micros);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.micros.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.micros.is_empty()
    }

    /// The one that `per_mille` of a thousand are not above; zero when there are none.
    pub fn quantile(&self, per_mille: usize) -> Duration {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let at = sorted.len().saturating_sub(1) * per_mille / 1000;
        Duration::from_micros(sorted.get(at).copied().unwrap_or_default().into())
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.quantile(1000)
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |per_mille| self.quantile(per_mille).as_secs_f64() * 1e3;
        write!(f, "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", ms(500), ms(990), ms(1000))
    }
}

/// The slope of the line nearest to the points, by least squares; zero when they say nothing about it.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x0, y0) = (mean(|point| point.0), mean(|point| point.1));
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in points {
        xy += (x - x0) * (y - y0);
        xx += (x - x0) * (x - x0);
    }
    if xx > 0.0 { xy / xx } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_slopes() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.max(), Duration::ZERO);
        for ms in (1..=1000).rev() {
            latencies.add(Duration::from_millis(ms));
        }
        assert_eq!([0, 500, 990, 1000].map(|at| latencies.quantile(at).as_millis()), [1, 500, 990, 1000]);
        assert_eq!(slope(&[(0.0, 5.0), (1.0, 7.0), (2.0, 9.0)]), 2.0);
        assert_eq!(slope(&[(3.0, 5.0)]), 0.0);
    }
}
