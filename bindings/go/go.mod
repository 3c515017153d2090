module flashmla

go 1.24
