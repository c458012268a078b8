package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/modebench/modebench/topology/lab"
)

// Ask is the verb CNI.Ask.
func (s *Service) Ask(q lab.CNIAsk, reply *lab.CNIAnswer) error {
	a, err := s.call(q.Call)
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	var result string
	if q.Plugin > 0 {
		result, err = s.alone(a, q)
	} else {
		result, err = all(a, q)
	}
	var no *Error
	switch {
	case errors.As(err, &no):
		reply.Refusal = lab.Refusal{Errno: no.Symbol(), Text: err.Error()}
	case err != nil:
		reply.Refusal = lab.Refusal{Errno: "no CNI error", Text: err.Error()}
	}
	reply.Result = result
	return nil
}

// all asks the plugins of a list, by the library.
func all(a *call, q lab.CNIAsk) (result string, err error) {
	ctx := context.Background()
	if q.Forgotten {
		a.CNIConfig = libcni.NewCNIConfigWithCacheDir(a.Path, fmt.Sprintf("/proc/self/fd/%d/forgotten", a.view.cache.Fd()), a.view)
	}
	switch q.Command {
	case "ADD":
		r, err := a.AddNetworkList(ctx, a.list, a.rt)
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(r)
		return string(text), err
	case "DEL":
		return "", a.DelNetworkList(ctx, a.list, a.rt)
	case "CHECK":
		return "", a.CheckNetworkList(ctx, a.list, a.rt)
	case "STATUS":
		return "", a.GetStatusNetworkList(ctx, a.list)
	case "GC":
		valid := []types.GCAttachment{}
		for _, id := range q.Valid {
			valid = append(valid, types.GCAttachment{ContainerID: id, IfName: q.Call.Link})
		}
		return "", a.GCNetworkList(ctx, a.list, &libcni.GCArgs{ValidAttachments: valid})
	}
	return "", fmt.Errorf("command %q: want ADD, DEL, CHECK, GC or STATUS", q.Command)
}

// alone asks one plugin of a list, with an environment and a configuration that may be wrong.
func (s *Service) alone(a *call, q lab.CNIAsk) (said string, err error) {
	if q.Plugin > len(a.list.Plugins) {
		return "", fmt.Errorf("plugin %d of %d: there is none", q.Plugin, len(a.list.Plugins))
	}
	plugin := a.list.Plugins[q.Plugin-1]
	path, err := a.view.FindInPath(plugin.Network.Type, a.Path)
	if err != nil {
		return "", err
	}
	conf := []byte(q.Conf)
	if q.Conf == "" {
		whole, err := libcni.InjectConf(plugin, map[string]any{"name": a.list.Name, "cniVersion": a.list.CNIVersion})
		if err != nil {
			return "", err
		}
		conf = whole.Bytes
	}
	env := (&invoke.Args{
		Command: q.Command, ContainerID: a.rt.ContainerID, NetNS: a.rt.NetNS, IfName: a.rt.IfName, Path: a.Path[0],
	}).AsEnv()
	for _, name := range slices.Sorted(maps.Keys(q.Env)) {
		env = append(env, name+"="+q.Env[name])
	}
	out, err := a.view.ExecPlugin(context.Background(), path, conf, env)
	return string(out), err
}
