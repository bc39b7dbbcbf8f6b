module github.com/istiod-agent/istiod-agent

go 1.26.0
