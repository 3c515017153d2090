//! The 8-bit formats of a cache: e4m3 values and e8m0 scales.

/// Largest finite e4m3 value.
pub const E4M3_MAX: f32 = 448.0;
pub const E4M3_NAN: u8 = 0x7f;
pub const E8M0_NAN: u8 = 0xff;
/// Smallest normal FP32: scales below it would lose precision.
const MIN_NORMAL: f32 = f32::MIN_POSITIVE;
/// Powers of two start here: 2^ceil(log2(1e-4)), as upstream's reference has it.
const MIN_POWER: i32 = -13;

/// Sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, NaN where all other bits are set.
pub fn e4m3_to_f32(code: u8) -> f32 {
    let (exponent, mantissa) = ((code >> 3 & 15) as i32, (code & 7) as f32);
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * power_of_two(-9),
        _ => (8.0 + mantissa) * power_of_two(exponent - 10),
    };
    if code & 0x80 != 0 {
        -magnitude
    } else {
        magnitude
    }
}

/// To the nearest code, ties to even; what is larger than 448 becomes 448, and NaN becomes 0x7F.
pub fn f32_to_e4m3(x: f32) -> u8 {
    if x.is_nan() {
        return E4M3_NAN;
    }
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    let magnitude = x.abs().min(E4M3_MAX);
    // The step between neighbours: 2^-9 for subnormals, an eighth of the power of two below otherwise.
    let exponent = ((magnitude.to_bits() >> 23) as i32 - 127).max(-6);
    let steps = (magnitude / power_of_two(exponent - 3)).round_ties_even() as u8;
    // 16 steps are the next binade, which is what the carry into the exponent gives.
    sign | (((exponent + 6) as u8) << 3).wrapping_add(steps)
}

/// 2^(code - 127); 0xFF is NaN.
pub fn e8m0_to_f32(code: u8) -> f32 {
    match code {
        E8M0_NAN => f32::NAN,
        0 => f32::from_bits(1 << 22),
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// Of a power of two between 2^-127 and 2^127, or NaN.
pub fn f32_to_e8m0(power: f32) -> u8 {
    match power.is_nan() {
        true => E8M0_NAN,
        false => (power.to_bits() >> 23) as u8,
    }
}

/// The scale of a group with the largest magnitude `max`: the least power of two that is not below max / 448.
pub fn scale_power_of_two(max: f32) -> f32 {
    if !max.is_finite() {
        return f32::NAN;
    }
    let wanted = (max / E4M3_MAX).max(power_of_two(MIN_POWER));
    let bits = wanted.to_bits();
    // Up to the next power unless it is one.
    f32::from_bits((bits + 0x7f_ffff) & !0x7f_ffff)
}

/// As [`scale_power_of_two`], not rounded.
pub fn scale_exact(max: f32) -> f32 {
    match max.is_finite() {
        true => (max / E4M3_MAX).max(MIN_NORMAL),
        false => f32::NAN,
    }
}

/// For normal results.
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the definition, in double precision.
    fn e4m3_definition(code: u8) -> f64 {
        let (sign, e, m) = (code >> 7, (code >> 3 & 15) as i32, (code & 7) as f64);
        let magnitude = match e {
            0 => m / 8.0 * 2f64.powi(-6),
            _ => (1.0 + m / 8.0) * 2f64.powi(e - 7),
        };
        if sign == 1 {
            -magnitude
        } else {
            magnitude
        }
    }

    #[test]
    fn every_e4m3_code() {
        for code in 0..=255u8 {
            let x = e4m3_to_f32(code);
            if code & 0x7f == 0x7f {
                assert!(x.is_nan(), "{code:#x}");
                assert_eq!(f32_to_e4m3(x), E4M3_NAN);
                continue;
            }
            assert_eq!(x as f64, e4m3_definition(code), "{code:#x}");
            assert_eq!(x.is_sign_negative(), code >= 0x80, "{code:#x}");
            assert_eq!(f32_to_e4m3(x), code, "{code:#x} is {x}");
        }
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert_eq!(e4m3_to_f32(0x01), 2f32.powi(-9));
    }

    /// The nearest code for values on, between and halfway between codes; halfway the even one.
    #[test]
    fn rounding_is_to_nearest_even() {
        for low in 0..0x7eu8 {
            let (a, b) = (e4m3_to_f32(low), e4m3_to_f32(low + 1));
            let middle = (a + b) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            let beside = |steps: i32| f32::from_bits(middle.to_bits().wrapping_add_signed(steps));
            for (x, code) in [(middle, even), (beside(-1), low), (beside(1), low + 1)] {
                assert_eq!(f32_to_e4m3(x), code, "{x}");
                assert_eq!(f32_to_e4m3(-x), code | 0x80, "{x}");
            }
        }
    }

    #[test]
    fn large_values_saturate() {
        for x in [448.0, 448.1, 464.0, 480.0, 1e30, f32::INFINITY] {
            assert_eq!((f32_to_e4m3(x), f32_to_e4m3(-x)), (0x7e, 0xfe), "{x}");
        }
        for x in [0.0, 1e-40, 2f32.powi(-10)] {
            assert_eq!((f32_to_e4m3(x), f32_to_e4m3(-x)), (0, 0x80), "{x}");
        }
    }

    #[test]
    fn every_e8m0_code() {
        for code in 0..255u8 {
            let x = e8m0_to_f32(code);
            assert_eq!(x as f64, 2f64.powi(code as i32 - 127), "{code}");
            assert_eq!(f32_to_e8m0(x), code, "{x}");
        }
        assert!(e8m0_to_f32(255).is_nan());
        assert_eq!(f32_to_e8m0(f32::NAN), 255);
    }

    /// For every BF16 magnitude.
    #[test]
    fn scales_follow_their_rules() {
        for bits in 0..0x7f80u32 {
            let max = f32::from_bits(bits << 16);
            let wanted = max as f64 / 448.0;
            let power = scale_power_of_two(max);
            let exponent = (power as f64).log2();
            assert_eq!(exponent.fract(), 0.0, "{max}");
            assert!(power as f64 >= wanted && exponent >= -13.0, "{max}");
            assert!(exponent == -13.0 || (power as f64) < 2.0 * wanted, "{max}");
            let exact = scale_exact(max);
            assert!((exact as f64 - wanted).abs() <= wanted * 6e-8 || exact == f32::MIN_POSITIVE, "{max}");
        }
        for max in [f32::NAN, f32::INFINITY] {
            assert!(scale_power_of_two(max).is_nan() && scale_exact(max).is_nan());
        }
    }
}
