//! Reading UDF (ECMA-167, OSTA UDF 1.02 to 2.60).
