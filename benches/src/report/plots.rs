//! The plots, each drawn by plotters into a string.

use super::svg::{self, INK, MESH, OURS, OURS2, PAPER, PEER, PEER2};
use crate::ab::Row;
use crate::sim::{Point, Simulated};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A finished picture.
pub struct Plot {
    /// The file's name, without its ending.
    pub name: String,
    /// What it shows.
    pub caption: String,
    svg: String,
}

impl Plot {
    /// For a file of its own.
    pub fn file(&self) -> String {
        let style = format!("<style>{}text{{font-family:system-ui,sans-serif}}</style>", svg::variables());
        match self.svg.split_once('>') {
            Some((head, rest)) => format!("{head}>\n{style}{rest}"),
            None => self.svg.clone(),
        }
    }

    /// For a page that has the variables.
    pub fn inline(&self) -> &str {
        &self.svg
    }
}

/// Axes, mesh and their words. A macro: the two charts have different types.
macro_rules! dress {
    ($chart:ident, $axes:ident) => {
        $chart
            .configure_mesh()
            .x_desc($axes[0])
            .y_desc($axes[1])
            .axis_style(INK)
            .bold_line_style(MESH)
            .light_line_style(PAPER)
            .label_style(("sans-serif", 14).into_font().color(&INK))
            .axis_desc_style(("sans-serif", 15).into_font().color(&INK))
            .x_label_formatter(&|x| short(*x))
            .y_label_formatter(&|y| short(*y))
            .draw()
            .map_err(failed)?
    };
}

/// The lines with their points, and the legend.
macro_rules! curves {
    ($chart:ident, $lines:ident, $corner:expr) => {
        for line in $lines.iter().filter(|l| !l.points.is_empty()) {
            let colour = line.colour;
            $chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)))
                .map_err(failed)?
                .label(line.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 22, y)], colour.stroke_width(3)));
            $chart
                .draw_series(line.points.iter().map(|&p| Circle::new(p, 3, colour.filled())))
                .map_err(failed)?;
        }
        $chart
            .configure_series_labels()
            .position($corner)
            .background_style(PAPER.filled())
            .border_style(MESH)
            .label_font(("sans-serif", 14).into_font().color(&INK))
            .draw()
            .map_err(failed)?
    };
}
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws on a sheet of that size.
fn sheet(
    name: &str,
    caption: &str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<()>,
) -> Result<Plot> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        root.fill(&PAPER).map_err(|e| anyhow!("{name}: {e}"))?;
        draw(&root)?;
        root.present().map_err(|e| anyhow!("{name}: {e}"))?;
    }
    // A view box in place of fixed measures would do as well; browsers scale both by the style sheet.
    Ok(Plot { name: name.into(), caption: caption.into(), svg: svg::themed(&text) })
}

/// Those plots for which there are rows.
///
/// # Errors
/// If one cannot be drawn.
pub fn all(rows: &[Row], simulated: &Simulated) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    let headline: Vec<&Row> = rows.iter().filter(|r| is_headline(&r.name)).collect();
    if !headline.is_empty() {
        plots.push(self::headline(&headline)?);
    }
    let heat: Vec<_> = rows.iter().filter_map(|r| Some((cell(&r.name)?, r.ratio))).collect();
    if !heat.is_empty() {
        plots.push(heat_map(&heat)?);
    }
    let batch = [
        ("copy, ours", "sweep.copy_batch.", false, OURS),
        ("copy, baseline", "sweep.copy_batch.", true, PEER),
        ("map + unmap, ours", "sweep.map_batch.", false, OURS2),
        ("map + unmap, baseline", "sweep.map_batch.", true, PEER2),
    ];
    plots.extend(lines(
        "batch",
        "Time per element against the elements in a hypercall: 64-byte copies, and maps with their unmaps.",
        ["elements in a hypercall", "ns per element"],
        &series(rows, &batch),
    )?);
    let fill = [
        ("same CPU, ours", "maptrack.pair.", false, OURS),
        ("same CPU, baseline", "maptrack.pair.", true, PEER),
        ("freed on another CPU, ours", "maptrack.cross.", false, OURS2),
        ("freed on another CPU, baseline", "maptrack.cross.", true, PEER2),
    ];
    plots.extend(lines(
        "maptrack",
        "A handle allocated and freed, against the handles in use.",
        ["handles in use", "ns per pair"],
        &series(rows, &fill),
    )?);
    let threads = [
        ("own grefs, ours", "own", false, OURS),
        ("own grefs, baseline", "own", true, PEER),
        ("same grefs, ours", "same", false, OURS2),
        ("same grefs, baseline", "same", true, PEER2),
    ];
    plots.extend(lines(
        "threads",
        "Time per element of each thread, measured: copies of 64 bytes, 32 to a hypercall, one granter.",
        ["threads", "ns per element"],
        &threads.map(|(label, grefs, peer, colour)| Line {
            label,
            points: scaling(rows, grefs, peer),
            colour,
        }),
    )?);
    plots.extend(scaled(simulated)?);
    Ok(plots)
}

/// A figure of a point.
type Figure = fn(&Point) -> f64;

/// What the simulator says of more CPUs: for each workload the time, the lines moved, and the steps that are
/// one after the other.
fn scaled(simulated: &Simulated) -> Result<Vec<Plot>> {
    let lines_of = [
        ("own grefs, ours", "ours", "own", OURS),
        ("own grefs, baseline", "xen", "own", PEER),
        ("same grefs, ours", "ours", "same", OURS2),
        ("same grefs, baseline", "xen", "same", PEER2),
    ];
    let mut workloads: Vec<&str> = simulated.points.iter().map(|p| &p.workload[..]).collect();
    workloads.dedup();
    let figures: [(&str, &str, &str, Figure); 3] = [
        ("time", "Simulated time per element of each CPU", "ns per element", |p| p.time),
        (
            "moved",
            "Cache lines that move from one CPU to another, in the same runs",
            "lines moved per element",
            |p| p.moved.max(LEAST),
        ),
        (
            "queued",
            "Requests for a line that wait for another CPU's request, in the same runs: steps that are one \
             after the other however many CPUs there are",
            "requests waiting per element",
            |p| p.queued.max(LEAST),
        ),
    ];
    let mut plots = Vec::new();
    for workload in workloads {
        for (kind, what, unit, of) in figures {
            let of_line = |&(label, engine, grefs, colour): &(&'static str, &str, &str, RGBColor)| {
                let mine = |p: &&Point| p.workload == workload && p.engine == engine && p.grefs == grefs;
                let points = simulated.points.iter().filter(mine).map(|p| (f64::from(p.cpus), of(p)));
                Line { label, points: points.collect(), colour }
            };
            let name = format!("simulated-{kind}-{}", workload.split('.').next().unwrap_or(workload));
            let caption = format!("{what}: {workload}, one granter.");
            plots.extend(lines(&name, &caption, ["CPUs", unit], &lines_of.each_ref().map(of_line))?);
        }
    }
    Ok(plots)
}

/// What stands for none on a logarithmic axis.
const LEAST: f64 = 0.01;

/// Rows shown as bars: single operations and mixes, not points of sweeps.
fn is_headline(name: &str) -> bool {
    !["sweep.", "maptrack."].iter().any(|p| name.starts_with(p)) || matches!(name, "maptrack.pair.1")
}

/// Length and offset of a cell of the heat map.
fn cell(name: &str) -> Option<(u32, u32)> {
    let (len, offset) = name.strip_prefix("sweep.heat.")?.split_once('.')?;
    Some((len.parse().ok()?, offset.parse().ok()?))
}

struct Line {
    label: &'static str,
    points: Vec<(f64, f64)>,
    colour: RGBColor,
}

fn series(rows: &[Row], of: &[(&'static str, &str, bool, RGBColor)]) -> Vec<Line> {
    let line = |&(label, prefix, peer, colour): &(&'static str, &str, bool, RGBColor)| {
        let point = |r: &Row| {
            let x = r.name.strip_prefix(prefix)?.parse().ok()?;
            Some((x, if peer { r.peer } else { r.ours }))
        };
        Line { label, points: rows.iter().filter_map(point).collect(), colour }
    };
    of.iter().map(line).collect()
}

fn scaling(rows: &[Row], grefs: &str, peer: bool) -> Vec<(f64, f64)> {
    let one = "copy.gref_own.b32.64";
    let find =
        |name: &str, x| rows.iter().find(|r| r.name == name).map(|r| (x, if peer { r.peer } else { r.ours }));
    [find(one, 1.0), find(&format!("{one}.threads2.{grefs}"), 2.0)].into_iter().flatten().collect()
}

/// A chart of lines over a logarithmic axis, with a logarithmic height where the values span much.
fn lines(name: &str, caption: &str, axes: [&str; 2], lines: &[Line]) -> Result<Option<Plot>> {
    let points = || lines.iter().flat_map(|l| l.points.iter().copied());
    if lines.iter().all(|l| l.points.len() < 2) {
        return Ok(None);
    }
    let last = points().map(|p| p.0).fold(1.0, f64::max);
    let high = points().map(|p| p.1).fold(0.0, f64::max) * 1.5;
    let low = points().map(|p| p.1).fold(f64::INFINITY, f64::min);
    // The legend stands where no line is: lines that fall leave the right corner free, others the left one.
    let falls =
        lines.iter().filter_map(|l| Some(l.points.first()?.1 - l.points.last()?.1)).sum::<f64>() > 0.0;
    let corner = || if falls { SeriesLabelPosition::UpperRight } else { SeriesLabelPosition::UpperLeft };
    let plot = sheet(name, caption, (900, 460), |root| {
        let mut chart = ChartBuilder::on(root);
        chart.margin(16).x_label_area_size(48).y_label_area_size(72);
        let x = (0.9..last * 1.1).log_scale();
        // 30 times from the lowest to the highest: a straight scale would show the highest only.
        if high > low * 30.0 {
            let mut chart = chart.build_cartesian_2d(x, (low / 2.0..high).log_scale()).map_err(failed)?;
            dress!(chart, axes);
            curves!(chart, lines, corner());
        } else {
            let mut chart = chart.build_cartesian_2d(x, 0.0..high).map_err(failed)?;
            dress!(chart, axes);
            curves!(chart, lines, corner());
        }
        Ok(())
    })?;
    Ok(Some(plot))
}

fn failed(why: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {why}")
}

/// A number on an axis.
fn short(x: f64) -> String {
    if x >= 10_000.0 {
        format!("{:.0}k", x / 1000.0)
    } else if x >= 10.0 || x.fract().abs() < 1e-9 {
        format!("{x:.0}")
    } else {
        format!("{x}")
    }
}

fn text(root: &Area<'_>, at: (i32, i32), words: &str, colour: &RGBColor, side: HPos) -> Result<()> {
    let style = ("sans-serif", 14).into_font().color(colour).pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(words.to_owned(), at, style)).map_err(failed)
}

fn rectangle(root: &Area<'_>, from: (i32, i32), to: (i32, i32), colour: &RGBColor) -> Result<()> {
    root.draw(&Rectangle::new([from, to], colour.filled())).map_err(failed)
}

/// A length in pixels.
#[expect(clippy::cast_possible_truncation, reason = "of a picture")]
fn pixels(x: f64) -> i32 {
    x.round() as i32
}

const LEFT: i32 = 310;
const LINE: i32 = 40;
const TOP: i32 = 50;

/// Two bars for each row, with the ratio behind them.
pub struct Bars<'a> {
    /// The file's name, without its ending.
    pub name: &'static str,
    /// What it shows.
    pub caption: &'static str,
    /// Words for our figures and the other's, with their unit.
    pub legend: [&'a str; 2],
    /// Digits after the point.
    pub digits: usize,
}

/// A row of [`Bars`].
pub struct Bar<'a> {
    /// What was measured.
    pub name: &'a str,
    /// Ours.
    pub ours: f64,
    /// The other's.
    pub peer: f64,
    /// How many times better ours is.
    pub ratio: f64,
}

/// The headline rows, in nanoseconds.
fn headline(rows: &[&Row]) -> Result<Plot> {
    let bars = Bars {
        name: "bars",
        caption: "Medians in nanoseconds per element (per pair for handles), ours and the baseline's; behind the \
                  bars, how many times faster ours is. The few longest bars are cut at the edge.",
        legend: ["ours, ns", "baseline, ns"],
        digits: 1,
    };
    let drawn: Vec<_> = rows
        .iter()
        .map(|row| Bar { name: &row.name, ours: row.ours, peer: row.peer, ratio: row.ratio })
        .collect();
    bars.draw(&drawn)
}

impl Bars<'_> {
    /// Draws the rows, in their order.
    ///
    /// # Errors
    /// If the picture cannot be drawn.
    pub fn draw(&self, rows: &[Bar<'_>]) -> Result<Plot> {
        let height = TOP + LINE * i32::try_from(rows.len())? + 20;
        // Rows that wait for memory would dwarf the others: bars end at the edge, their figures stand inside.
        let mut values: Vec<f64> = rows.iter().map(|r| r.ours.max(r.peer)).collect();
        values.sort_by(f64::total_cmp);
        let full = values.get(values.len() * 9 / 10).map_or(1.0, |full| full.max(f64::MIN_POSITIVE));
        sheet(self.name, self.caption, (900, u32::try_from(height)?), |root| {
            for ((words, colour), x) in self.legend.iter().zip([&OURS, &PEER]).zip([LEFT, LEFT + 220]) {
                rectangle(root, (x, 14), (x + 14, 28), colour)?;
                text(root, (x + 20, 21), words, &INK, HPos::Left)?;
            }
            text(root, (885, 21), "ratio", &INK, HPos::Right)?;
            for (i, row) in rows.iter().enumerate() {
                let top = TOP + LINE * i32::try_from(i)?;
                text(root, (LEFT - 10, top + 16), row.name, &INK, HPos::Right)?;
                for (y, value, colour) in [(top, row.ours, &OURS), (top + 17, row.peer, &PEER)] {
                    let end = LEFT + pixels((value / full).min(1.0) * 440.0).max(1);
                    rectangle(root, (LEFT, y), (end, y + 14), colour)?;
                    let value = format!("{value:.*}", self.digits);
                    text(root, (end + 6, y + 8), &value, &INK, HPos::Left)?;
                }
                text(root, (885, top + 16), &format!("{:.2}x", row.ratio), &INK, HPos::Right)?;
            }
            Ok(())
        })
    }
}

const DARK_TEXT: RGBColor = RGBColor(20, 20, 20);

/// Ratios by length (down) and offset (across).
fn heat_map(cells: &[((u32, u32), f64)]) -> Result<Plot> {
    let sorted = |of: fn(&(u32, u32)) -> u32| {
        let mut all: Vec<u32> = cells.iter().map(|c| of(&c.0)).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let (lens, offsets) = (sorted(|c| c.0), sorted(|c| c.1));
    let height = 90 + 34 * i32::try_from(lens.len())?;
    let caption = "How many times faster ours copies, by length (down) and by offset of the destination in its page \
                   (across); the source begins its page. Blue: ours is faster. Red: the baseline is.";
    sheet("heat", caption, (900, u32::try_from(height)?), |root| {
        let width = 760 / i32::try_from(offsets.len())?;
        text(root, (110, 20), "offset of the destination, bytes", &INK, HPos::Left)?;
        text(root, (95, 52), "length, B", &INK, HPos::Right)?;
        for (i, offset) in offsets.iter().enumerate() {
            let x = 110 + width * i32::try_from(i)? + width / 2;
            text(root, (x, 52), &offset.to_string(), &INK, HPos::Center)?;
        }
        for (j, len) in lens.iter().enumerate() {
            let y = 70 + 34 * i32::try_from(j)?;
            text(root, (95, y + 16), &len.to_string(), &INK, HPos::Right)?;
            for (i, offset) in offsets.iter().enumerate() {
                let x = 110 + width * i32::try_from(i)?;
                let Some((_, ratio)) = cells.iter().find(|c| c.0 == (*len, *offset)) else { continue };
                rectangle(root, (x, y), (x + width - 2, y + 32), &heat(*ratio))?;
                text(root, (x + width / 2, y + 16), &format!("{ratio:.2}"), &DARK_TEXT, HPos::Center)?;
            }
        }
        Ok(())
    })
}

/// White at 1, blue from there to 4 times faster, red to 4 times slower. Light enough for dark text.
fn heat(ratio: f64) -> RGBColor {
    let depth = (ratio.max(0.01).log2() / 2.0).clamp(-1.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 255")]
    let fade = |to: f64| (255.0 - (255.0 - to) * depth.abs()) as u8;
    if depth >= 0.0 {
        RGBColor(fade(110.0), fade(170.0), fade(235.0))
    } else {
        RGBColor(fade(240.0), fade(120.0), fade(110.0))
    }
}
