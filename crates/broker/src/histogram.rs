/// Most bounds of a histogram.
const BOUNDS: usize = 16;

/// How often a measured value lay at or below each of some fixed bounds. Recording is one addition; nothing is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Ascending.
    bounds: &'static [u64],
    /// By the first bound that is not below the value; the last place is for those above all bounds.
    counts: [u64; BOUNDS + 1],
    sum: u64,
}

impl Histogram {
    /// Nothing recorded yet.
    pub fn new(bounds: &'static [u64]) -> Self {
        assert!(bounds.len() <= BOUNDS && bounds.is_sorted(), "at most {BOUNDS} bounds, in order: {bounds:?}");
        Self { bounds, counts: [0; BOUNDS + 1], sum: 0 }
    }

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Each bound, and how many values were not above it.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let below = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(below)
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What they add up to.
    pub fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_at_their_bound_and_above_all() {
        let mut histogram = Histogram::new(&[10, 20, 50]);
        assert_eq!((histogram.count(), histogram.sum()), (0, 0));
        for value in [0, 10, 11, 20, 50, 51, 1000] {
            histogram.record(value);
        }
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(10, 2), (20, 4), (50, 5)]);
        assert_eq!((histogram.count(), histogram.sum()), (7, 1142));
    }
}
