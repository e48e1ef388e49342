//! Message ids as RocketMQ makes them. Source: RocketMQ `MessageClientIDSetter`.
//!
//! ```text
//!  address: 4 or 16 bytes │ pid: u16 │ who: u32 │ ms since the month began: u32 │ counter: u16        as hexadecimal digits
//! ```

use keepmq_world::Timestamp;

const DAY_MS: i64 = 86_400_000;

/// Makes the ids of one client. No two are equal, also when the clock stands still or steps back.
pub(crate) struct MessageIds {
    /// Address, pid, and what tells the clients of a process apart; as digits.
    prefix: String,
    /// Milliseconds and counter of the last one, as one number that only grows.
    last: u64,
}

impl MessageIds {
    /// `who` stands where Java has the hash of its class loader.
    pub(crate) fn new(host: &[u8], pid: u16, who: u32) -> Self {
        let mut prefix = String::with_capacity(2 * host.len() + 12);
        host.iter().for_each(|byte| push_hex(&mut prefix, u64::from(*byte), 2));
        push_hex(&mut prefix, u64::from(pid), 4);
        push_hex(&mut prefix, u64::from(who), 8);
        Self { prefix, last: 0 }
    }

    pub(crate) fn next(&mut self, wall: Timestamp) -> String {
        let by_clock = since_month(wall) << 16;
        self.last = by_clock.max(self.last + 1);
        let mut id = String::with_capacity(self.prefix.len() + 12);
        id.push_str(&self.prefix);
        push_hex(&mut id, self.last & 0xFFFF_FFFF_FFFF, 12);
        id
    }
}

fn push_hex(text: &mut String, value: u64, digits: u32) {
    for digit in (0..digits).rev() {
        let nibble = u32::try_from(value >> (4 * digit) & 15).expect("four bits");
        text.push(char::from_digit(nibble, 16).expect("a hexadecimal digit").to_ascii_uppercase());
    }
}

/// Milliseconds since the month began, in UTC (Java takes local time; nobody computes with it).
fn since_month(Timestamp(wall): Timestamp) -> u64 {
    let day = wall.div_euclid(DAY_MS);
    // The day of the month of a day since 1970, by eras of 400 years that begin in March (H. Hinnant's calendar algorithms).
    let day_of_era = (day + 719_468).rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    u64::try_from(day_of_month * DAY_MS + wall.rem_euclid(DAY_MS)).expect("both parts are positive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_javas_form_and_never_repeat() {
        let mut ids = MessageIds::new(&[127, 0, 0, 1], 0x1234, 0xDEAD_BEEF);
        // 2024-02-29T00:00:00.005Z: 28 days and 5 ms of February.
        let wall = Timestamp(1_709_164_800_005);
        let ms = 28 * 86_400_000u32 + 5;
        assert_eq!(ids.next(wall), format!("7F0000011234DEADBEEF{ms:08X}0000"));
        assert_eq!(ids.next(wall), format!("7F0000011234DEADBEEF{ms:08X}0001"));
        let back = ids.next(Timestamp(0));
        assert_eq!(back, format!("7F0000011234DEADBEEF{ms:08X}0002"), "a clock that steps back repeats nothing");
        let mut seen = std::collections::BTreeSet::new();
        assert!((0..70_000).all(|_| seen.insert(ids.next(wall))), "nor does a counter that has gone round");
        assert_eq!(MessageIds::new(&[0; 16], 0, 0).next(wall).len(), 56);
    }

    #[test]
    fn months_begin_at_their_first_day() {
        for (wall, days) in [(0, 0), (30 * DAY_MS, 30), (31 * DAY_MS, 0), (951_782_400_000, 28), (951_868_800_000, 0)] {
            assert_eq!(since_month(Timestamp(wall)), days * DAY_MS as u64, "{wall}");
        }
    }
}
