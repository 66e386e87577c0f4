// The quickstart on any platform of a site: all that differs from it is the site's own layer, written once by the owner of the
// clusters (specs/lib/site.libsonnet).
//
//     liverl compile specs/quickstart-site.jsonnet --target k8s      # or docker, skypilot, ray, local
local site = import 'site.libsonnet';

(import 'quickstart.jsonnet') + site.everywhere + { name: 'quickstart-site' }
