//! What the guests report, and whether it is what was asked for.
//!
//! A guest prints `@progress {"packets":N}` now and then, one `@result {...}` per direction from the side
//! that received and verified, and `@fail text` for the first thing that is wrong. Numbers missing from a
//! result are a fault of the run, not zero.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Value, json};

use crate::failure::{Exit, stop};
use crate::qemu::Line;

/// The sums of one direction.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    pub name: String,
    pub packets: u64,
    /// Packets whose bytes, length and order the receiver found right.
    pub verified: u64,
    bytes: u64,
    copy: Count,
    map: Count,
    unmap: Count,
    /// From the first packet to the last.
    cycles: u64,
    /// As the guest said it.
    said: Value,
}

/// One kind of grant operation: elements, and guest cycles spent in its hypercalls (with `--icount` a
/// cycle is an instruction).
#[derive(Clone, Copy, Debug, PartialEq)]
struct Count {
    elements: u64,
    cycles: u64,
}

impl Direction {
    fn parse(text: &str) -> Result<Self, String> {
        let said: Value = serde_json::from_str(text).map_err(|error| format!("{error} in {text}"))?;
        let number = |key: &str| said[key].as_u64().ok_or_else(|| format!("no number \"{key}\" in {text}"));
        let count = |elements, cycles| {
            Ok::<_, String>(Count { elements: number(elements)?, cycles: number(cycles)? })
        };
        Ok(Self {
            name: said["direction"].as_str().ok_or_else(|| format!("no \"direction\" in {text}"))?.to_owned(),
            packets: number("packets")?,
            verified: number("verified")?,
            bytes: number("bytes")?,
            copy: count("copies", "copy_cycles")?,
            map: count("maps", "map_cycles")?,
            unmap: count("unmaps", "unmap_cycles")?,
            cycles: number("cycles")?,
            said,
        })
    }
}

/// One run's results as they come in.
#[derive(Clone, Debug)]
pub struct Report {
    profile: &'static str,
    pub directions: Vec<Direction>,
    /// Wall time from QEMU's start to the first verified packet.
    pub first_packet: Option<Duration>,
}

impl Report {
    pub fn new(profile: &'static str) -> Self {
        Self { profile, directions: Vec::new(), first_packet: None }
    }

    /// Takes in a line that came `elapsed` after the start; returns words for the progress display.
    pub fn line(&mut self, line: &Line<'_>, elapsed: Duration) -> Result<Option<String>> {
        let Some(domain) = line.domain else { return Ok(None) };
        let refuse = |why: String| stop(Exit::Failed, format!("{domain}: {why}"));
        if let Some(why) = line.text.strip_prefix("@fail") {
            return Err(refuse(why.trim().to_owned()));
        }
        if let Some(text) = line.text.strip_prefix("@progress ") {
            let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
            let packets = value["packets"].as_u64().unwrap_or(0);
            if packets > 0 {
                self.first_packet.get_or_insert(elapsed);
            }
            return Ok(Some(format!("{packets} packets")));
        }
        if let Some(text) = line.text.strip_prefix("@result ") {
            let direction = Direction::parse(text).map_err(refuse)?;
            self.first_packet.get_or_insert(elapsed);
            let words = format!("{}: {} packets verified", direction.name, direction.verified);
            self.directions.push(direction);
            return Ok(Some(words));
        }
        Ok(None)
    }

    /// Whether everything came and was verified; `packets`: how many were asked for in each direction.
    pub fn check(&self, packets: Option<u64>) -> Result<(), String> {
        if self.directions.is_empty() {
            return Err("the machine went off before a guest reported a result".to_owned());
        }
        for direction in &self.directions {
            let Direction { name, packets: got, verified, .. } = direction;
            if *got == 0 {
                return Err(format!("{name}: no packet was received"));
            }
            if verified != got {
                return Err(format!("{name}: {verified} of {got} packets verified"));
            }
            if packets.is_some_and(|asked| asked != *got) {
                return Err(format!(
                    "{name}: {got} packets received, not the {} asked for",
                    packets.unwrap_or(0)
                ));
            }
        }
        Ok(())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "profile": self.profile,
            "first_packet_seconds": self.first_packet.map(|time| time.as_secs_f64()),
            "directions": self.directions.iter().map(|direction| &direction.said).collect::<Vec<_>>(),
        })
    }

    /// Adds this run's rows.
    pub fn rows(&self, table: &mut Table) {
        for direction in &self.directions {
            let each = |cycles: u64, count: u64| {
                cycles.checked_div(count).map_or("-".to_owned(), |each| each.to_string())
            };
            let Direction { packets, bytes, copy, map, unmap, cycles, .. } = direction;
            let numbers = [
                packets.to_string(),
                bytes.to_string(),
                copy.elements.to_string(),
                map.elements.to_string(),
                unmap.elements.to_string(),
                each(copy.cycles, copy.elements),
                each(map.cycles, map.elements),
                each(unmap.cycles, unmap.elements),
                each(*cycles, *packets),
            ];
            let mut row = vec![Cell::new(self.profile), Cell::new(&direction.name)];
            row.extend(numbers.map(|number| Cell::new(number).set_alignment(CellAlignment::Right)));
            table.add_row(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "(d2 netfront) @result {\"direction\":\"rx\",\"packets\":3,\"bytes\":180,\"verified\":3,\
        \"copies\":4,\"maps\":0,\"unmaps\":0,\"copy_cycles\":40,\"map_cycles\":0,\"unmap_cycles\":0,\"cycles\":99}";

    fn read(lines: &[&str]) -> (Report, Result<()>) {
        let mut report = Report::new("imix");
        let done = lines
            .iter()
            .try_for_each(|line| report.line(&Line::parse(line), Duration::from_secs(1)).map(|_| ()));
        (report, done)
    }

    #[test]
    fn results_are_read_and_held_against_what_was_asked() {
        let (report, done) = read(&["(hv) hello", "(d1 netback) @progress {\"packets\":1}", GOOD]);
        done.unwrap();
        assert_eq!(report.first_packet, Some(Duration::from_secs(1)));
        assert_eq!(report.directions[0].bytes, 180);
        assert_eq!(report.check(None), Ok(()));
        assert_eq!(report.check(Some(3)), Ok(()));
        assert!(report.check(Some(4)).unwrap_err().contains("not the 4 asked for"));
        assert_eq!(report.json()["directions"][0]["copies"], 4);
        let mut table = Table::new();
        report.rows(&mut table);
        let row = table.lines().find(|line| line.contains("rx")).unwrap();
        for number in ["180", "10", "33", "-"] {
            assert!(row.split_whitespace().any(|word| word == number), "{number}: {row}");
        }
    }

    #[test]
    fn a_missing_byte_number_or_line_fails() {
        let (report, done) = read(&[]);
        done.unwrap();
        assert!(report.check(None).unwrap_err().contains("before a guest reported"));
        let (report, _) = read(&[&GOOD.replace("\"verified\":3", "\"verified\":2")]);
        assert_eq!(report.check(None).unwrap_err(), "rx: 2 of 3 packets verified");
        let (_, done) = read(&[&GOOD.replace("\"maps\":0,", "")]);
        assert!(done.unwrap_err().to_string().contains("no number \"maps\""));
        let (_, done) = read(&["(d1 netback) @fail packet 3: byte 9 is wrong"]);
        assert_eq!(done.unwrap_err().to_string(), "d1 netback: packet 3: byte 9 is wrong");
    }

    #[test]
    fn the_hypervisor_cannot_report_results() {
        let (report, done) = read(&["@fail x", "@result {}"]);
        done.unwrap();
        assert!(report.directions.is_empty());
    }
}
