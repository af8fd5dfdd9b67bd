//! The CMOS clock (MC146818): the date and time at boot, read once.
//!
//! It is taken to run in UTC and in this century; the register that firmware keeps the century in is not
//! dependable.

/// Seconds since 1970 now; `None` when there is no clock, or it says nothing sensible.
#[must_use]
pub fn seconds() -> Option<u64> {
    #[cfg(feature = "bare-metal")]
    {
        use super::port;
        const ADDRESS: u16 = 0x70;
        const DATA: u16 = 0x71;
        read(|register| {
            // SAFETY: the clock's address and data ports; reading its registers changes no memory.
            unsafe {
                port::write8(ADDRESS, register);
                port::read8(DATA)
            }
        })
    }
    #[cfg(not(feature = "bare-metal"))]
    None
}

/// Second, minute, hour, day, month, year.
const FIELDS: [u8; 6] = [0, 2, 4, 7, 8, 9];
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATING: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const PM: u8 = 1 << 7;
/// More looks than a second's update takes on any machine.
const PATIENCE: u32 = 100_000;

/// Reads until two readings agree, so that none is torn by an update.
#[cfg_attr(not(any(feature = "bare-metal", test)), expect(dead_code, reason = "a host has no such clock"))]
fn read(register: impl Fn(u8) -> u8) -> Option<u64> {
    let once = || FIELDS.map(&register);
    let mut last = None;
    for _ in 0..PATIENCE {
        if register(STATUS_A) & UPDATING != 0 {
            continue;
        }
        let now = once();
        if last == Some(now) {
            return decode(now, register(STATUS_B));
        }
        last = Some(now);
    }
    None
}

fn decode(fields: [u8; 6], status: u8) -> Option<u64> {
    let number = |byte: u8| if status & BINARY != 0 { byte } else { (byte >> 4) * 10 + (byte & 15) };
    let [second, minute, hour, day, month, year] = fields;
    let mut hours = u64::from(number(hour & !PM));
    if status & HOURS_24 == 0 {
        hours = hours % 12 + if hour & PM != 0 { 12 } else { 0 };
    }
    let [second, minute, day, month, year] = [second, minute, day, month, year].map(|b| u64::from(number(b)));
    if second > 59
        || minute > 59
        || hours > 23
        || !(1..=31).contains(&day)
        || !(1..=12).contains(&month)
        || year > 99
    {
        return None;
    }
    // Days since 1970 in years that begin with March, so that the leap day is the last.
    let (year, month) = if month > 2 { (2000 + year, month - 3) } else { (1999 + year, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    Some(((days * 24 + hours) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_in_every_format() {
        assert_eq!(decode([0, 0, 0, 1, 1, 0], BINARY | HOURS_24), Some(946_684_800));
        assert_eq!(decode([0x59, 0x58, 0x23, 0x29, 0x02, 0x24], HOURS_24), Some(1_709_251_139));
        assert_eq!(decode([0x56, 0x34, 0x12 | PM, 0x23, 0x11, 0x26], 0), Some(1_795_437_296));
        assert_eq!(decode([0x56, 0x34, 0x12, 0x23, 0x11, 0x26], 0), Some(1_795_437_296 - 12 * 3600));
    }

    #[test]
    fn no_clock_and_nonsense() {
        assert_eq!(read(|_| 0xff), None);
        assert_eq!(decode([0, 0, 0, 0, 1, 0], BINARY | HOURS_24), None);
        assert_eq!(decode([0, 0, 0, 1, 13, 0], BINARY | HOURS_24), None);
    }
}
