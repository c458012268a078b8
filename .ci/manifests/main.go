// Command manifests checks Kubernetes manifests against the types of its API: fields that are not there, and values of the
// wrong kind, are errors. It is a module of its own, so that these types are no dependency of modebench.
package main

import (
	"fmt"
	"os"

	batch "k8s.io/api/batch/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	for _, path := range os.Args[1:] {
		data, err := os.ReadFile(path)
		if err == nil {
			var job batch.Job
			if err = yaml.UnmarshalStrict(data, &job); err == nil && (job.APIVersion != batch.SchemeGroupVersion.String() || job.Kind != "Job") {
				err = fmt.Errorf("%s %s: want a Job of %s", job.APIVersion, job.Kind, batch.SchemeGroupVersion)
			}
			if s := job.Spec; err == nil && (s.CompletionMode == nil || *s.CompletionMode != batch.IndexedCompletion || s.Completions == nil) {
				err = fmt.Errorf("want an Indexed Job that says how many completions there are")
			}
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			os.Exit(1)
		}
	}
}
