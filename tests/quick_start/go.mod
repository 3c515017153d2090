module program

go 1.24

require flashmla v0.1.0

replace flashmla => /opt/flashmla/share/flashmla/go
