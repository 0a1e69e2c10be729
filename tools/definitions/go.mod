module tagtrail/definitions

go 1.26.8

require (
	github.com/prometheus-operator/prometheus-operator v0.85.0
	github.com/ray-project/kuberay/ray-operator v1.6.1
)
