module examples

go 1.24

require flashmla v0.1.0

replace flashmla => ../bindings/go
