//! Shrinking: each pixel is the mean of the area it covers, weighted by alpha.

use crate::png::Image;

/// Where pixel `i` of `small` begins in `large`, in 1/256 pixels.
fn edge(i: usize, small: usize, large: usize) -> usize {
    (i * large * 256) / small
}

/// The parts of source pixels that lie between two edges: index and weight up to 256.
fn covered(from: usize, to: usize, most: usize) -> impl Iterator<Item = (usize, u64)> {
    let last = ((to + 255) / 256).min(most);
    (from / 256..last).map(move |i| {
        let begin = from.max(i * 256);
        let end = to.min((i + 1) * 256);
        (i, (end - begin) as u64)
    })
}

fn mean(image: &Image, x: (usize, usize), y: (usize, usize)) -> [u8; 4] {
    let (mut colour, mut alpha, mut area) = ([0u64; 3], 0u64, 0u64);
    for (row, high) in covered(y.0, y.1, image.height) {
        for (column, wide) in covered(x.0, x.1, image.width) {
            let pixel = image.pixels[row * image.width + column];
            let opaque = high * wide * u64::from(pixel[3]);
            for i in 0..3 {
                colour[i] += opaque * u64::from(pixel[i]);
            }
            alpha += opaque;
            area += high * wide;
        }
    }
    let part = |sum: u64| if alpha == 0 { 0 } else { ((sum + alpha / 2) / alpha) as u8 };
    [part(colour[0]), part(colour[1]), part(colour[2]), ((alpha + area / 2) / area.max(1)) as u8]
}

pub fn to_width(image: &Image, width: usize) -> Image {
    let height = (image.height * width / image.width).max(1);
    let mut pixels = Vec::with_capacity(width * height);
    for y in 0..height {
        let rows = (edge(y, height, image.height), edge(y + 1, height, image.height));
        for x in 0..width {
            let columns = (edge(x, width, image.width), edge(x + 1, width, image.width));
            pixels.push(mean(image, columns, rows));
        }
    }
    Image { width, height, pixels }
}
